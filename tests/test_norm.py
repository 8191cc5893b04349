"""Group norms that follow an edit: exact when everything is active, whatever was recorded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsedit.sparse import ActivationCache, SitePyramid, alongside, record, sparse
from sparsedit.sparse.cache import Step, TextMemory
from sparsedit.sparse.leaves import Call
from sparsedit.sparse.norm import GroupNormalisation
from sparsedit.sparse.rows import tensors_of
from tests.families import FAMILIES


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_moments_are_those_of_the_edited_map(mean: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.GroupNorm(4, 12))
    original, edited = torch.randn(2, 12, 9, 7) + mean, 3 * torch.randn(2, 12, 9, 7) - mean
    mask = torch.rand(9, 7) > 0.6
    mixed = torch.where(mask, edited, original)
    cache = ActivationCache()
    with torch.no_grad(), record(model, cache, moments=True):
        kept = model(original)
    with torch.no_grad(), sparse(model, cache, SitePyramid.from_mask(mask)):
        thin = model(mixed)
    assert torch.allclose(thin[..., mask], model(mixed)[..., mask], atol=1e-5)
    assert torch.equal(thin[..., ~mask], kept[..., ~mask])


class Doubled(torch.nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("kind", [torch.nn.GroupNorm, Doubled])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "strided", "tokens"])
@torch.no_grad()
def test_a_recording_changes_no_bit_and_remembers_what_was_done(kind: type, dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    norm = kind(4, 12).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 * torch.randn(2, 12, 9, 14) + 1).to(dtype)
    laid = {
        "contiguous": x,
        "channels-last": x.to(memory_format=torch.channels_last),
        "strided": x[..., ::2],
        "tokens": x.flatten(2),
    }[layout]
    leaf = GroupNormalisation("norm", norm)
    call = Call(Step((9, 14), 2, dtype, x.device, None), TextMemory())
    expected = norm(laid)
    recorded = leaf.record(call, laid)
    assert torch.equal(recorded, expected)
    assert recorded.stride() == expected.stride()
    scale, shift = (each.view(2, 12, *[1] * (laid.ndim - 2)).float() for each in call.step.leaves["norm"].tensors)
    once = expected.float() / (2 if kind is Doubled else 1)
    assert torch.allclose(laid.float() * scale + shift, once, atol=1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [0, 1], ids=["even", "odd"])
@torch.no_grad()
def test_a_full_mask_is_the_dense_pass_whatever_was_recorded(name: str, size: int) -> None:
    family = FAMILIES[name]
    model, height_width = family.build(), family.sizes[size]
    then, now = (family.inputs(2, height_width, seed) for seed in (1, 2))
    everything = SitePyramid.from_mask(torch.ones(height_width, dtype=torch.bool))
    cache = ActivationCache()
    with record(model, cache, moments=True):
        model(**then)
    expected = tensors_of(model(**now))
    with sparse(model, cache, everything):
        thin = tensors_of(model(**now))
    for a, b in zip(thin, expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@torch.no_grad()
def test_alongside_follows_as_well() -> None:
    family = FAMILIES["kl-decoder"]
    model = family.build()
    one, two = (family.inputs(1, family.sizes[0], seed) for seed in (1, 2))
    both = {name: torch.cat([one[name], two[name]]) for name in one}
    everything = SitePyramid.from_mask(torch.ones(family.sizes[0], dtype=torch.bool))
    with alongside(model, [everything], moments=True):
        thin = model(**both)[1:]
    assert (thin - model(**two)).norm() <= 1e-5 * thin.norm()
