"""Counted multiply-adds agree to the unit with formulas written by hand, wherever a layer runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsedit.measure.macs import MacCount, count_macs
from sparsedit.sparse import PackedWeights
from sparsedit.sparse.packing import can_pack

PLACES = [("cpu", torch.float32), ("cpu", torch.bfloat16), ("meta", torch.float32), ("meta", torch.bfloat16)]


@pytest.fixture(params=[torch.enable_grad, torch.no_grad, torch.inference_mode])
def gradients(request):
    """The operators torch runs differ with the gradient mode; the count must not."""
    with request.param():
        yield


@pytest.fixture(params=PLACES, ids=lambda place: f"{place[0]}-{str(place[1]).removeprefix('torch.')}")
def tensor(request, gradients):
    """Makes a tensor of a shape, on each device and in each dtype."""
    device, dtype = request.param

    def make(*shape: int) -> torch.Tensor:
        return torch.ones(*shape, device=device, dtype=dtype)

    return make


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (5,), (3, 5), (1, 5), (2, 3, 5)])
def test_linear(tensor, rows, bias):
    with count_macs() as count:
        F.linear(tensor(*rows, 8), tensor(6, 8), tensor(6) if bias else None)
    n = 1
    for size in rows:
        n *= size
    assert count == MacCount(macs=n * 8 * 6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_linear_of_a_transposed_input_is_still_a_linear(tensor, batch, bias):
    # torch runs it as a product of two batches of matrices, as it does attention.
    with count_macs() as count:
        F.linear(tensor(batch, 8, 5).transpose(1, 2), tensor(6, 8), tensor(6) if bias else None)
    assert count == MacCount(macs=batch * 5 * 8 * 6)


def test_product_with_one_matrix_is_a_linear(tensor):
    rows, matrix = tensor(2, 8, 5).transpose(1, 2), tensor(8, 6)
    with count_macs() as count:
        _ = rows @ matrix
        torch.matmul(rows, other=matrix)
        torch.addmm(tensor(6), tensor(5, 8), matrix)
    assert count == MacCount(macs=(10 + 10 + 5) * 8 * 6)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (1, 1, 0, 1), (3, 1, 1, 4), (5, 3, 0, 2)],
)
def test_convolution(tensor, kernel, stride, padding, groups):
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (9, 13))
    with count_macs() as count:
        F.conv2d(
            tensor(2, 8, 9, 13),
            tensor(12, 8 // groups, kernel, kernel),
            tensor(12),
            stride,
            padding,
            1,
            groups,
        )
    assert count == MacCount(macs=2 * height * width * 12 * (8 // groups) * kernel**2)


def test_convolution_counts_alike_in_channels_last(tensor):
    with count_macs() as count:
        F.conv2d(tensor(1, 8, 6, 6).to(memory_format=torch.channels_last), tensor(4, 8, 3, 3), padding=1)
    assert count == MacCount(macs=36 * 4 * 8 * 9)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(("queries", "keys", "depth"), [(16, 16, 8), (3, 77, 64), (16, 12, 512)])
def test_attention(tensor, queries, keys, depth, mask):
    q, k = tensor(2, 4, queries, depth), tensor(2, 4, keys, depth)
    with count_macs() as count:
        F.scaled_dot_product_attention(q, k, k, attn_mask=tensor(2, 4, queries, keys) if mask else None)
    assert count == MacCount(attention_macs=2 * (2 * 4 * queries * keys * depth))


def test_attention_written_out_is_attention(tensor):
    q, k = tensor(6, 5, 8), tensor(6, 7, 8)
    with count_macs() as count:
        weights = torch.baddbmm(tensor(6, 5, 7), q, k.transpose(1, 2)).softmax(-1)
        torch.bmm(weights, k)
    assert count == MacCount(attention_macs=2 * 6 * 5 * 7 * 8)


def test_everything_else_is_free(tensor):
    x = tensor(2, 8, 4, 4)
    with count_macs() as count:
        F.interpolate(F.group_norm(F.silu(x), 4), scale_factor=2.0, mode="bilinear")
        F.embedding(torch.zeros(3, dtype=torch.long, device=x.device), tensor(5, 8))
        x.flatten(2).index_select(2, torch.zeros(3, dtype=torch.long, device=x.device))
    assert count == MacCount()


@pytest.mark.skipif(not can_pack(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_by_packed_weights(bias):
    layer, packed = nn.Linear(8, 6, bias).bfloat16(), PackedWeights()
    with torch.no_grad(), count_macs() as count:
        for _ in range(2):
            packed.linear(torch.ones(2, 8, 8, dtype=torch.bfloat16), layer, layer.weight, layer.bias)
    assert count == MacCount(macs=2 * 2 * 8 * 8 * 6)


def test_products_without_a_formula_are_named(tensor):
    with count_macs() as count:
        torch.mv(tensor(5, 8), tensor(8))
        torch.mv(tensor(5, 8), tensor(8))
        F.bilinear(tensor(5, 8), tensor(5, 8), tensor(6, 8, 8))
    assert count.macs == count.attention_macs == 0
    assert count.uncounted == {"aten.mv": 2, "aten._trilinear": 1}


def test_operators_of_other_libraries_are_named():
    with torch.library._scoped_library("sparsedit_test", "DEF") as library:
        library.define("fused(Tensor x) -> Tensor")
        library.impl("fused", lambda x: x.clone(), "CompositeExplicitAutograd")
        with count_macs() as count:
            torch.ops.sparsedit_test.fused(torch.ones(2))
    assert count.uncounted == {"sparsedit_test.fused": 1}


def test_counts_what_ran_before_an_exception_and_then_stops():
    def fail() -> None:
        with count_macs() as counts:
            F.linear(torch.ones(1, 2), torch.ones(3, 2))
            seen.append(counts)
            raise RuntimeError("in the middle")

    seen: list[MacCount] = []
    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    F.linear(torch.ones(1, 2), torch.ones(3, 2))
    assert seen == [MacCount(macs=6)]


def test_contexts_nest():
    with count_macs() as outer:
        F.linear(torch.ones(1, 2), torch.ones(3, 2))
        with count_macs() as inner:
            F.linear(torch.ones(2, 8, 5).transpose(1, 2), torch.ones(6, 8))
    assert inner == MacCount(macs=10 * 8 * 6)
    assert outer == MacCount(macs=6 + 10 * 8 * 6)


@given(
    sizes=st.tuples(*[st.integers(1, 12)] * 4),
    channels=st.integers(1, 5),
    groups=st.integers(1, 4),
    kernel=st.integers(1, 3),
)
def test_any_convolution(sizes, channels, groups, kernel):
    batch, outputs, height, width = sizes
    layer = nn.Conv2d(channels * groups, outputs * groups, kernel, padding=kernel // 2, groups=groups, device="meta")
    with count_macs() as count:
        y = layer(torch.empty(batch, channels * groups, height, width, device="meta"))
    assert count.macs == y.numel() * channels * kernel**2
