"""The engine's promises, for every family, at even, odd and small sizes, for one picture and for several.

1. All sites active and the cache taken from the same input: sparse is dense.
2. No site active: exactly what is remembered.
3. Sites outside keep their bits; sites inside are what the definition of a thin pass says (`reference.py`).
4. The model is left as it was (`test_swap.py`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsedit.sparse import SitePyramid, sparse
from sparsedit.sparse.rows import map_tensors, tensors_of
from tests.engine import (
    SIZES,
    edited,
    mask_of,
    model_of,
    nothing,
    outputs,
    recorded,
    relative_error,
    same_bits,
    sites_of,
    size_of,
    whole,
)
from tests.families import FAMILIES, TEXT, Pyramidal, noise, picture_inputs
from tests.reference import Reference

LIMIT = 1e-5
LAYOUT = ["sdxl", "ddim", "controlnet", "kl-encoder", "kl-decoder", "tiny-decoder", "custom"]

every_family = pytest.mark.parametrize("name", FAMILIES)
some_families = pytest.mark.parametrize("name", LAYOUT)
every_size = pytest.mark.parametrize("which", SIZES)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@every_family
@pytest.mark.parametrize(("which", "batch"), [("even", 1), ("even", 3), ("odd", 3), ("small", 1), ("small", 3)])
def test_all_sites_active_is_the_dense_model(name: str, which: str, batch: int) -> None:
    model, size = model_of(name), size_of(name, which)
    inputs = FAMILIES[name].inputs(batch, size, 5)
    dense = model(**inputs)
    memory, result = recorded(model, inputs)
    assert same_bits(result, dense)
    assert type(result) is type(dense)
    thin = edited(model, memory, whole(size), inputs)
    assert relative_error(thin, dense) <= LIMIT
    assert type(thin) is type(dense)


@every_family
@every_size
def test_no_site_active_is_exactly_what_is_remembered(name: str, which: str) -> None:
    model, size = model_of(name), size_of(name, which)
    memory, result = recorded(model, FAMILIES[name].inputs(2, size, 5))
    assert same_bits(edited(model, memory, nothing(size), FAMILIES[name].inputs(2, size, 6)), result)


@every_family
@pytest.mark.parametrize(
    ("which", "kind"), [("odd", "block"), ("even", "scattered"), ("even", "corner"), ("small", "scattered")]
)
def test_an_edit_changes_the_sites_inside_and_no_bit_outside(name: str, which: str, kind: str) -> None:
    """Inside, the answer is that of the slow reference; the edit's prompt differs too, in length and in words."""
    model, size = model_of(name), size_of(name, which)
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    if "encoder_hidden_states" in changed:
        changed["encoder_hidden_states"] = noise(2, 9, TEXT, seed=7)
    sites = sites_of(kind, size)
    memory, before = recorded(model, original)
    after = edited(model, memory, sites, changed)
    for new, old in zip(outputs(after), outputs(before), strict=True):
        outside = sites.level((new.shape[2], new.shape[3])).position < 0
        assert torch.equal(new.flatten(2)[:, :, outside], old.flatten(2)[:, :, outside])
        assert not torch.equal(new, old)
    assert relative_error(after, Reference(model, original).edit(changed, sites)) <= LIMIT


@every_family
@pytest.mark.parametrize("policy", [{"dilation": 2}, {"dilation": 1, "level_dilation": 1}])
def test_an_edit_that_changes_nothing_changes_nothing(name: str, policy: dict[str, int]) -> None:
    model, size = model_of(name), size_of(name, "even")
    inputs = FAMILIES[name].inputs(2, size, 5)
    memory, result = recorded(model, inputs)
    sites = SitePyramid.from_mask(mask_of("block", size), **policy)
    assert relative_error(edited(model, memory, sites, inputs), result) <= LIMIT


@pytest.mark.parametrize("finer", [2, 8])
@pytest.mark.parametrize("name", ["sdxl", "controlnet"])
def test_the_mask_may_be_given_in_pixels_of_the_picture(name: str, finer: int) -> None:
    model, size = model_of(name), size_of(name, "odd")
    memory, before = recorded(model, FAMILIES[name].inputs(1, size, 5))
    mask = mask_of("block", size)
    pixels = mask.repeat_interleave(finer, 0).repeat_interleave(finer, 1)
    changed = FAMILIES[name].inputs(1, size, 6)
    from_pixels = edited(model, memory, SitePyramid.from_mask(pixels), changed)
    assert same_bits(from_pixels, edited(model, memory, SitePyramid.from_mask(mask), changed))
    assert not same_bits(from_pixels, before)


@pytest.mark.parametrize("name", ["tiny-decoder", "convolutions"])
def test_without_norms_a_mask_with_margin_gives_the_whole_dense_edit(name: str) -> None:
    """Convolutions alone see no further than their margin, so nothing outside of it can differ."""
    torch.manual_seed(0)
    model = Pyramidal(norm=False).eval() if name == "convolutions" else model_of(name)
    size = (37, 53)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[3:9, 40:50] = True
    entry, channels = ("picture", 3) if name == "convolutions" else ("x", 4)
    original, changed = (picture_inputs(2, size, seed, entry, channels) for seed in (5, 6))
    changed[entry] = torch.where(mask, changed[entry], original[entry])
    memory, _ = recorded(model, original)
    thin = edited(model, memory, SitePyramid.from_mask(mask, dilation=14), changed)
    assert relative_error(thin, model(**changed)) <= LIMIT


@some_families
def test_several_steps_in_one_context_are_the_steps_taken_alone(name: str) -> None:
    model, size = model_of(name), size_of(name, "even")
    sites = sites_of("block", size)
    steps = [(FAMILIES[name].inputs(2, size, seed), FAMILIES[name].inputs(2, size, seed + 9)) for seed in (1, 2, 3)]
    for (original, changed), timestep in zip(steps, (801, 401, 401), strict=True):
        if "timestep" in original:
            original["timestep"] = changed["timestep"] = timestep
    alone = [edited(model, recorded(model, original)[0], sites, changed) for original, changed in steps]
    memory, _ = recorded(model, *[original for original, _ in steps])
    assert len(memory) == 3
    with sparse(model, memory, sites):
        together = [model(**changed) for _, changed in steps]
    assert all(same_bits(*pair) for pair in zip(together, alone, strict=True))


@some_families
def test_neither_order_nor_repetition_of_edits_matters(name: str) -> None:
    model, size = model_of(name), size_of(name, "even")
    memory, _ = recorded(model, FAMILIES[name].inputs(2, size, 5))
    sites = {kind: sites_of(kind, size) for kind in ("block", "scattered")}
    changed = {"block": FAMILIES[name].inputs(2, size, 6), "scattered": FAMILIES[name].inputs(2, size, 7)}
    if "encoder_hidden_states" in changed["block"]:
        changed["block"]["encoder_hidden_states"] = noise(2, 7, TEXT, seed=8)
    order = ("block", "scattered", "scattered", "block")
    results = [edited(model, memory, sites[kind], changed[kind]) for kind in order]
    assert same_bits(results[0], results[3])
    assert same_bits(results[1], results[2])


@some_families
def test_the_pictures_of_a_batch_do_not_see_each_other(name: str) -> None:
    model, size = model_of(name), size_of(name, "odd")
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    sites = sites_of("scattered", size)
    together = edited(model, recorded(model, original)[0], sites, changed)
    for row in (0, 1):
        first, second = (map_tensors(inputs, lambda t, r=row: one(t, r)) for inputs in (original, changed))
        alone = edited(model, recorded(model, first)[0], sites, second)
        assert relative_error(alone, map_tensors(together, lambda t, r=row: one(t, r))) <= LIMIT


def one(tensor: Tensor, row: int) -> Tensor:
    return tensor[row : row + 1] if tensor.ndim else tensor


@some_families
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_every_gradient_mode_gives_the_same_and_the_cache_keeps_no_graph(name: str, mode: Any) -> None:
    model, size = model_of(name), size_of(name, "small")
    original, changed = (FAMILIES[name].inputs(1, size, seed) for seed in (5, 6))
    sites = sites_of("scattered", size)
    plain = edited(model, recorded(model, original)[0], sites, changed)
    model.requires_grad_(True)
    with mode():
        memory, _ = recorded(model, original)
        result = edited(model, memory, sites, changed)
    model.requires_grad_(False)
    kept = [tensor for step in memory for leaf in step.leaves.values() for tensor in leaf.tensors]
    kept += [tensor for step in memory for tensor in step.outputs] + list(memory.texts.projected.values())
    assert not any(tensor.requires_grad for tensor in kept)
    assert same_bits(map_tensors(result, torch.detach), plain)


@every_family
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-6), (torch.bfloat16, 4e-2)], ids=["float64", "bfloat16"]
)
def test_other_precisions(name: str, dtype: torch.dtype, limit: float) -> None:
    model, size = FAMILIES[name].build().to(dtype), size_of(name, "even")
    inputs = map_tensors(FAMILIES[name].inputs(1, size, 5), lambda t: t.to(dtype) if t.is_floating_point() else t)
    dense = model(**inputs)
    memory, _ = recorded(model, inputs)
    thin = edited(model, memory, whole(size), inputs)
    assert {tensor.dtype for tensor in tensors_of(thin)} == {dtype}
    assert relative_error(thin, dense) <= limit


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


@every_family
def test_models_and_pictures_in_channels_last_memory(name: str) -> None:
    model, size = FAMILIES[name].build().to(memory_format=torch.channels_last), size_of(name, "even")
    original, changed = (map_tensors(FAMILIES[name].inputs(2, size, seed), channels_last) for seed in (5, 6))
    memory, dense = recorded(model, original)
    assert relative_error(edited(model, memory, whole(size), original), dense) <= LIMIT
    sites = sites_of("block", size)
    after = edited(model, memory, sites, changed)
    assert relative_error(after, Reference(model, original).edit(changed, sites)) <= LIMIT
