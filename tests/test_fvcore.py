"""Three counts of one call agree to the unit: fvcore's trace, torch's flop counter, and formulas written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from transformers import CLIPTextModel

from sparsedit.errors import ModelError
from sparsedit.measure.macs import MacCount, count_macs
from sparsedit.measure.trace import trace_macs
from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse
from tests.engine import mask_of, model_of, recorded, size_of
from tests.families import FAMILIES, Inputs
from tests.formulas import Formulas
from tests.pipelines import text_config


def flop_count(model: nn.Module, *args: object, **kwargs: object) -> MacCount:
    with torch.no_grad(), count_macs() as count:
        model(*args, **kwargs)
    return count


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_counts_the_same_in_three_ways(name: str) -> None:
    model, size = model_of(name), size_of(name, "even")
    inputs, mask = FAMILIES[name].inputs(2, size, 0), mask_of("block", size)
    formulas = Formulas.of(model, inputs)
    assert flop_count(model, **inputs) == formulas.dense()
    cache = ActivationCache()
    with record(model, cache):
        assert trace_macs(model, **inputs) == formulas.dense()
    sites = SitePyramid.from_mask(mask)
    with sparse(model, cache, sites):
        assert trace_macs(model, **inputs) == formulas.thin(mask)
    with sparse(model, cache, sites):
        assert flop_count(model, **inputs) == formulas.thin(mask)


def test_a_trace_inside_a_context_is_one_step() -> None:
    model = model_of("sdxs")
    inputs = FAMILIES["sdxs"].inputs(1, (8, 8), 0)
    cache = ActivationCache()
    with record(model, cache):
        trace_macs(model, **inputs)
        trace_macs(model, **inputs | {"timestep": torch.tensor(1)})
    assert [int(step.timestep) for step in cache if step.timestep is not None] == [801, 1]


def test_a_cache_filled_by_a_trace_serves_thin_calls() -> None:
    model = model_of("sd15")
    inputs, edited = (FAMILIES["sd15"].inputs(1, (16, 24), seed) for seed in (0, 1))
    sites = SitePyramid.from_mask(mask_of("block", (16, 24)))
    traced = ActivationCache()
    with record(model, traced):
        trace_macs(model, **inputs)
    results = []
    for cache in (traced, recorded(model, inputs)[0]):
        with sparse(model, cache, sites):
            results.append(model(**edited).sample)
    assert torch.equal(*results)


MASK = torch.zeros(6, 8, dtype=torch.bool)
MASK[1:3, 2:4] = True  # 4 sites of 48; halved 2 of 12, doubled 16 of 192
PROMPT = torch.ones(2, 7, 6)
LEAVES: dict[str, tuple[nn.Module, Inputs, MacCount, MacCount]] = {
    "3x3 convolution": (
        nn.Conv2d(8, 5, 3, padding=1), {},
        MacCount(2 * 48 * 9 * 8 * 5), MacCount(2 * 4 * 9 * 8 * 5),
    ),
    "1x1 convolution": (
        nn.Conv2d(8, 5, 1), {},
        MacCount(2 * 48 * 8 * 5), MacCount(2 * 4 * 8 * 5),
    ),
    "convolution of stride 2": (
        nn.Conv2d(8, 5, 3, stride=2, padding=1), {},
        MacCount(2 * 12 * 9 * 8 * 5), MacCount(2 * 2 * 9 * 8 * 5),
    ),
    "up-sampling": (
        Upsample2D(8, use_conv=True), {},
        MacCount(2 * 192 * 9 * 8 * 8), MacCount(2 * 16 * 9 * 8 * 8),
    ),
    "self-attention": (
        Attention(8, heads=2, dim_head=4), {},
        MacCount(4 * 2 * 48 * 8 * 8, 2 * 2 * 48 * 48 * 8), MacCount(4 * 2 * 4 * 8 * 8, 2 * 2 * 4 * 48 * 8),
    ),
    "cross-attention": (
        Attention(8, 6, heads=2, dim_head=4), {"encoder_hidden_states": PROMPT},
        MacCount(2 * 2 * 48 * 8 * 8 + 2 * 2 * 7 * 6 * 8, 2 * 2 * 48 * 7 * 8),
        MacCount(2 * 2 * 4 * 8 * 8, 2 * 2 * 4 * 7 * 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES)
def test_leaf(name: str) -> None:
    leaf, inputs, dense, thin = LEAVES[name]
    x, cache = torch.ones(2, 8, 6, 8), ActivationCache()
    assert trace_macs(leaf, x, **inputs) == flop_count(leaf, x, **inputs) == dense
    with record(leaf, cache):
        assert trace_macs(leaf, x, **inputs) == dense
    for count in (trace_macs, flop_count):
        with sparse(leaf, cache, SitePyramid.from_mask(MASK)):
            assert count(leaf, x, **inputs) == thin


def test_a_new_prompt_is_projected_once_in_a_thin_run() -> None:
    leaf, inputs, _, thin = LEAVES["cross-attention"]
    x, cache, new = torch.ones(2, 8, 6, 8), ActivationCache(), {"encoder_hidden_states": PROMPT + 1}
    with record(leaf, cache):
        for _ in range(2):
            leaf(x, **inputs)
    with sparse(leaf, cache, SitePyramid.from_mask(MASK)):
        assert trace_macs(leaf, x, **new) == MacCount(thin.macs + 2 * 2 * 7 * 6 * 8, thin.attention_macs)
        assert trace_macs(leaf, x, **new) == thin


def test_norms_that_follow_an_edit_multiply_no_matrices() -> None:
    model, size = model_of("custom"), size_of("custom", "even")
    inputs, mask, cache = FAMILIES["custom"].inputs(1, size, 0), mask_of("block", size), ActivationCache()
    expected = Formulas.of(model, inputs).thin(mask)
    with record(model, cache, moments=True):
        model(**inputs)
    with sparse(model, cache, SitePyramid.from_mask(mask)):
        assert trace_macs(model, **inputs) == expected


def test_a_linear_layer() -> None:
    assert trace_macs(nn.Linear(8, 5), torch.ones(3, 7, 8)) == MacCount(3 * 7 * 8 * 5)


def test_a_text_encoder() -> None:
    encoder = CLIPTextModel(text_config()).eval()
    tokens = torch.zeros(1, 77, dtype=torch.long)
    count = trace_macs(encoder, tokens)
    assert count == flop_count(encoder, tokens)
    layer = 77 * (4 * 32 * 32 + 2 * 32 * 64)
    assert count == MacCount(2 * layer, 2 * 2 * 77 * 77 * 32)


class Products(nn.Module):
    """Matrix products in every spelling, one of them without a formula."""

    def forward(self, x: Tensor) -> Tensor:
        matrix = torch.ones(8, 5)
        y = (x @ matrix).sum() + torch.mm(x[0], matrix).sum() + torch.addmm(torch.ones(5), x[0], matrix).sum()
        batched = torch.bmm(x, x.transpose(1, 2)) + torch.baddbmm(torch.ones(1), x, x.transpose(1, 2))
        written = torch.einsum("bij,bkj->bik", x, x)
        return y + batched.sum() + written.sum() + F.scaled_dot_product_attention(x, x, x).sum()


def test_spellings_of_a_product() -> None:
    count = trace_macs(Products(), torch.ones(2, 3, 8))
    assert count.macs == (2 * 3 + 3 + 3) * 8 * 5
    assert count.attention_macs == (1 + 1 + 2) * 2 * 3 * 3 * 8
    assert count.uncounted == {"aten.einsum": 1}


def test_operators_that_nobody_vouches_for_are_named() -> None:
    class Sorting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(torch.mv(x, x[0])).values

    assert trace_macs(Sorting(), torch.ones(4, 4)).uncounted == {"aten.mv": 1, "aten.sort": 1}


def test_a_trace_that_fails_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        trace_macs(model, torch.ones(1, 3, 4, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules())
    assert torch._C._get_tracing_state() is None


def test_a_model_without_numbers_is_refused() -> None:
    with pytest.raises(ModelError, match="a trace needs numbers, and this Linear has none"):
        trace_macs(nn.Linear(2, 2, device="meta"), torch.empty(1, 2, device="meta"))
