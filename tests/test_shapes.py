"""Numbers of rows: the first shapes as they are, later ones at lengths they share, and never another bit."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsedit.sparse import PackedWeights, attention, packing
from sparsedit.sparse import shapes as shapes_module
from sparsedit.sparse.attention import attend
from sparsedit.sparse.packing import can_pack
from sparsedit.sparse.shapes import Shapes

properties = settings(max_examples=60, deadline=None, derandomize=True)
counts = st.integers(1, 3000)


@properties
@given(st.lists(counts, min_size=1, max_size=30), st.integers(0, 5))
def test_lengths_hold_their_rows(asked, free):
    shapes = Shapes(free)
    for count in asked:
        length = shapes.length(count, 8, 8)
        assert max(count, 16) <= length < max(1.25 * count + 8, 17)
        assert shapes.length(length, 8, 8) == length
    assert shapes.met[8, 8] == sorted(set(shapes.met[8, 8]))
    assert shapes.count == len(shapes.met[8, 8])


def test_the_first_shapes_run_as_they_are_and_go_on_so():
    shapes = Shapes(2)
    assert [shapes.length(count, 8) for count in (101, 205, 307, 101, 205)] == [101, 205, 320, 101, 205]


def test_later_rows_run_with_a_number_that_was_met_where_it_is_not_much_larger():
    shapes = Shapes(2)
    assert [shapes.length(count, 8) for count in (101, 205, 90, 100, 204, 102, 170, 150)] == [
        *(101, 205, 101, 101, 205, 112, 205, 160)
    ]


def test_rows_run_with_up_to_twice_their_number_when_many_have_been_met(monkeypatch):
    monkeypatch.setattr(shapes_module, "NEAR", 1)
    shapes = Shapes(1)
    asked = (300, 100, 151, 150, 149, 9)
    assert [shapes.length(count, 8) for count in asked] == [300, 112, 300, 300, 160, 16]


def test_models_on_several_threads_never_get_fewer_rows_than_they_have():
    shapes, interval = Shapes(10_000), sys.getswitchinterval()

    def ask(seed):
        draw = random.Random(seed)
        return all(shapes.length(count, 8) >= count for count in (draw.randint(16, 9999) for _ in range(20_000)))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(ask, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert shapes.met[8] == sorted(set(shapes.met[8]))


def test_another_matrix_is_another_shape():
    shapes = Shapes(1)
    assert [shapes.length(101, 8), shapes.length(101, 16), shapes.length(101, 8)] == [101, 112, 101]


def test_few_rows_are_filled_up_from_the_first():
    assert Shapes(100).length(3, 8) == 16


def test_many_masks_share_few_lengths():
    shapes = Shapes(64)
    for start in (1, 7, 3):
        for count in range(start, 4097, 7):
            shapes.length(count, 8)
    assert len(shapes.met[8]) < 64 + 31


@pytest.fixture
def both(monkeypatch):
    """Runs a function with free shapes and with none, and gives both results."""

    def run(function):
        results = []
        for free in (1000, 0):
            for module in (packing, attention):
                monkeypatch.setattr(module, "SHAPES", Shapes(free))
            with torch.inference_mode():
                results.append(function())
        return results

    return run


@pytest.mark.skipif(not can_pack(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("count", [1, 5, 16, 17, 150, 333])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (576, 4), (1152, 128), (11520, 64)])
def test_a_packed_product_has_the_same_bits_filled_up(both, count, inputs, outputs):
    layer = nn.Linear(inputs, outputs).bfloat16()
    x = torch.randn(2, count, inputs, generator=torch.Generator().manual_seed(0)).bfloat16()
    free, filled = both(lambda: PackedWeights().linear(x, layer, layer.weight, layer.bias))
    assert free.shape == filled.shape == (2, count, outputs)
    assert filled.isfinite().all()
    assert torch.equal(free, filled)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 150, 333])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_has_the_same_bits_filled_up(both, count, masked):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 32, generator=generator).bfloat16() for n in (count, 77, 77))
    mask = torch.zeros(2, 4, 1, 77, dtype=torch.bfloat16) if masked else None
    if mask is not None:
        mask[..., 50:] = -10_000
    free, filled = both(lambda: attend(query, key, value, mask))
    assert free.shape == filled.shape == query.shape
    assert filled.isfinite().all()
    assert torch.equal(free, filled)
