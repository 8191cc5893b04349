"""Smaller forms of what is remembered: what int8 costs at most, and that cutting maps to a halo costs nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsedit.errors import CacheError
from sparsedit.sparse import ActivationCache, SitePyramid
from sparsedit.sparse.cache import Memory
from sparsedit.sparse.halo import HaloMemory, Halos, KeptRows
from sparsedit.sparse.int8 import Int8Memory, in_int8
from sparsedit.sparse.survey import find_leaves
from tests.engine import edited, model_of, recorded, relative_error, same_bits, sites_of, size_of, whole
from tests.families import FAMILIES, noise

LAYOUT = ["sdxl", "controlnet", "kl-encoder", "kl-decoder", "tiny-decoder"]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def key_value(dtype: torch.dtype = torch.float32) -> Tensor:
    """Tokens of very different sizes, one of them all zeros."""
    sizes = torch.tensor([1e-3, 1.0, 50.0, 0.0, 3.0]).view(1, 1, 5, 1)
    return (noise(2, 3, 5, 8, seed=1) * sizes).to(dtype)


def test_int8_is_within_half_a_level_of_every_token() -> None:
    values = key_value()
    [decoded] = Int8Memory.of(Memory((values,), (1, 5))).values
    level = values.abs().amax(3, keepdim=True) / 127
    assert ((decoded - values).abs() <= 0.51 * level + 1e-6).all()
    assert (decoded[:, :, 3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_decodes_to_the_precision_it_came_in(dtype: torch.dtype) -> None:
    memory = Int8Memory.of(Memory((key_value(dtype),), (1, 5)))
    assert memory.values[0].dtype == dtype
    assert memory.nbytes == 2 * 3 * 5 * (8 + 2)


def test_int8_takes_new_rows_as_they_are_and_keeps_the_rest() -> None:
    memory, rows = Int8Memory.of(Memory((key_value(),), (1, 5))), noise(2, 3, 2, 8, seed=2)
    renewed = memory.renewed(torch.tensor([1, 4]), rows)
    assert torch.equal(renewed[:, :, [1, 4]], rows)
    assert torch.equal(renewed[:, :, [0, 2, 3]], memory.values[0][:, :, [0, 2, 3]])
    assert torch.equal(memory.values[0], Int8Memory.of(Memory((key_value(),), (1, 5))).values[0])


def compacted(memory: ActivationCache, function: Any) -> ActivationCache:
    smaller = ActivationCache()
    smaller.texts = memory.texts
    for step in memory:
        smaller.append(function(step))
    return smaller


def test_an_edit_on_int8_is_near_the_edit_on_all_bits() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    original, changed = (FAMILIES["sdxl"].inputs(2, size, seed) for seed in (5, 6))
    memory, _ = recorded(model, original)
    small = compacted(memory, in_int8)
    before = edited(model, memory, sites_of("block", size), changed)
    after = edited(model, small, sites_of("block", size), changed)
    assert 0 < relative_error(after, before) < 0.02
    keys = [memory for memory in small.step(0).leaves.values() if isinstance(memory, Int8Memory)]
    assert keys
    assert small.nbytes < memory.nbytes


@pytest.mark.parametrize("name", LAYOUT)
def test_an_edit_on_its_halo_is_the_edit_on_all_rows(name: str) -> None:
    model, size = model_of(name), size_of(name, "odd")
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    memory, _ = recorded(model, original)
    masks = [sites_of("block", size), sites_of("corner", size)]
    small = compacted(memory, Halos(find_leaves(model), masks).cut)
    assert small.nbytes < 0.8 * memory.nbytes
    for sites in masks:
        assert same_bits(edited(model, small, sites, changed), edited(model, memory, sites, changed))
        fresh = SitePyramid.from_mask(sites.mask)  # another object, the same places
        assert same_bits(edited(model, small, fresh, changed), edited(model, memory, sites, changed))


def test_an_edit_with_another_mask_than_the_halos_is_refused() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    inputs = FAMILIES["sdxl"].inputs(1, size, 5)
    memory, _ = recorded(model, inputs)
    small = compacted(memory, Halos(find_leaves(model), [sites_of("corner", size)]).cut)
    with pytest.raises(CacheError, match=r"this mask is another.*--cache-rows all"):
        edited(model, small, sites_of("block", size), inputs)


def test_a_mask_over_everything_needs_no_halo() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    inputs = FAMILIES["sdxl"].inputs(1, size, 5)
    memory, dense = recorded(model, inputs)
    small = compacted(memory, Halos(find_leaves(model), [whole(size)]).cut)
    assert relative_error(edited(model, small, whole(size), inputs), dense) <= 1e-5


def test_kept_rows_are_found_and_others_are_missed() -> None:
    kept = KeptRows(torch.tensor([2, 5, 9], dtype=torch.int32))
    memory = HaloMemory((torch.arange(3.0).view(1, 3, 1),), (4, 4), kept=kept)
    assert memory.rows(torch.tensor([9, 2])).flatten().tolist() == [2, 0]
    assert memory.rows(torch.tensor([], dtype=torch.long)).shape == (1, 0, 1)
    with pytest.raises(CacheError):
        memory.rows(torch.tensor([2, 3]))
    with pytest.raises(CacheError):
        HaloMemory((torch.empty(1, 0, 1),), (4, 4), kept=KeptRows(torch.empty(0, dtype=torch.int32))).rows(
            torch.tensor([0])
        )
