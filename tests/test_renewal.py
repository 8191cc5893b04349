"""Writing a thin pass back: afterwards the recording is that of the edited picture, and never something in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsedit.errors import CacheError, EngineError
from sparsedit.sparse import ActivationCache, InterpolatedCache, SitePyramid, record, renewing
from sparsedit.sparse.cache import Memory, Renewable, Step
from sparsedit.sparse.halo import Halos
from sparsedit.sparse.int8 import Int8Memory, in_int8
from sparsedit.sparse.survey import find_leaves
from tests.engine import counted, edited, model_of, nothing, outputs, same_bits, sites_of, size_of, whole
from tests.families import FAMILIES, TEXT, Inputs, noise

LIMIT = 1e-5
LAYOUT = ["sdxl", "ddim", "controlnet", "kl-encoder", "kl-decoder", "tiny-decoder", "custom"]

every_family = pytest.mark.parametrize("name", FAMILIES)
some_families = pytest.mark.parametrize("name", LAYOUT)
every_norm = pytest.mark.parametrize("moments", [False, True], ids=["original", "updated"])


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def recording(model: nn.Module, *steps: Inputs, moments: bool = False) -> ActivationCache:
    memory = ActivationCache()
    with record(model, memory, moments=moments):
        for inputs in steps:
            model(**inputs)
    return memory


def renewed(model: nn.Module, memory: Renewable, sites: SitePyramid, *steps: Inputs) -> list[Any]:
    """What thin calls return whose activations are then written into the recording."""
    with renewing(model, memory, sites) as renewal:
        results = [model(**inputs) for inputs in steps]
    renewal.write()
    return results


def tensors(step: Step) -> dict[str, Tensor]:
    held = {f"{run} {number}": each for run, leaf in step.leaves.items() for number, each in enumerate(leaf.tensors)}
    return held | {f"output {number}": output for number, output in enumerate(step.outputs)}


def copied(memory: ActivationCache) -> list[dict[str, Tensor]]:
    return [{name: tensor.clone() for name, tensor in tensors(step).items()} for step in memory]


def unchanged(memory: ActivationCache, before: list[dict[str, Tensor]]) -> bool:
    pairs = zip((tensors(step) for step in memory), before, strict=True)
    return all(torch.equal(now[name], then[name]) for now, then in pairs for name in then)


@every_family
@pytest.mark.parametrize("which", ["even", "odd"])
def test_with_all_sites_active_it_is_the_recording_of_the_edited_picture(name: str, which: str) -> None:
    model, size = model_of(name), size_of(name, which)
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    memory = recording(model, original, original, moments=True)
    renewed(model, memory, whole(size), changed, changed)
    expected = recording(model, changed, changed, moments=True)
    for step, wanted in zip(memory, expected, strict=True):
        found = tensors(step)
        assert found.keys() == tensors(wanted).keys()
        for run, tensor in tensors(wanted).items():
            assert (found[run] - tensor).norm() <= LIMIT * tensor.norm() + 1e-6, run


@every_family
@every_norm
def test_what_is_remembered_afterwards_is_the_edit_bit_for_bit(name: str, moments: bool) -> None:
    model, size = model_of(name), size_of(name, "odd")
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    memory = recording(model, original, moments=moments)
    [thin] = renewed(model, memory, sites_of("block", size), changed)
    assert same_bits(edited(model, memory, nothing(size), original), thin)


@every_family
@every_norm
def test_sites_outside_keep_what_they_had(name: str, moments: bool) -> None:
    """Maps, keys, values and outputs; the statistics of whole maps change, where they follow at all."""
    model, size = model_of(name), size_of(name, "odd")
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    memory, sites = recording(model, original, moments=moments), sites_of("scattered", size)
    [before] = copied(memory)
    renewed(model, memory, sites, changed)
    norms = {leaf.name for leaf in find_leaves(model) if "Norm" in type(leaf).__name__}
    for run, leaf in memory.step(0).leaves.items():
        tensor = leaf.tensors[0]
        if run.partition("#")[0] in norms:
            assert torch.equal(tensor, before[f"{run} 0"]) == (not moments)
            continue
        outside = sites.level(leaf.size).position < 0
        axis = tensor.ndim - 2
        index = outside.nonzero().flatten()
        assert torch.equal(tensor.index_select(axis, index), before[f"{run} 0"].index_select(axis, index))
        assert not torch.equal(tensor, before[f"{run} 0"])


@some_families
def test_the_next_edit_reads_what_the_last_one_left(name: str) -> None:
    """An edit beside the first one is not what it would be on the first picture's recording."""
    model, size = model_of(name), size_of(name, "even")
    original, changed, next_ = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6, 7))
    first, second = torch.zeros(2, *size, dtype=torch.bool)
    first[2 : size[0] // 2, 2:6], second[2 : size[0] // 2, 6:10] = True, True
    memory = recording(model, original)
    alone = edited(model, memory, SitePyramid.from_mask(second), next_)
    renewed(model, memory, SitePyramid.from_mask(first), changed)
    after = edited(model, memory, SitePyramid.from_mask(second), next_)
    inside = SitePyramid.from_mask(second).level(size).index
    for one, two in zip(outputs(alone), outputs(after), strict=True):
        if one.shape[2:] == size:
            assert not torch.equal(one.flatten(2)[:, :, inside], two.flatten(2)[:, :, inside])


@some_families
@every_norm
def test_nothing_is_written_before_it_is_asked_for(name: str, moments: bool) -> None:
    model, size = model_of(name), size_of(name, "even")
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    memory = recording(model, original, original, moments=moments)
    before = copied(memory)
    with renewing(model, memory, sites_of("block", size)) as renewal:
        model(**changed)
    assert unchanged(memory, before)
    with pytest.raises(EngineError, match=r"1 of 2 recorded calls were made anew"):
        renewal.write()
    assert unchanged(memory, before)


def test_a_pass_without_sites_writes_nothing() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    original, changed = (FAMILIES["sdxl"].inputs(1, size, seed) for seed in (5, 6))
    memory = recording(model, original)
    before = copied(memory)
    renewed(model, memory, nothing(size), changed)
    assert unchanged(memory, before)


def test_the_last_prompt_is_remembered_and_no_other() -> None:
    size = size_of("sdxl", "even")
    model = FAMILIES["sdxl"].build()
    original = FAMILIES["sdxl"].inputs(1, size, 5)
    memory = recording(model, original)
    held = memory.texts.nbytes
    calls = counted(model)
    for seed in (7, 8, 8):
        prompt = {"encoder_hidden_states": noise(1, 7, TEXT, seed=seed)}  # a tensor of its own each time
        renewed(model, memory, sites_of("block", size), original | prompt)
    assert set(calls.values()) == {2}
    assert memory.texts.nbytes == held
    assert len(memory.texts.texts) == 1


def test_keys_and_values_in_int8_are_rounded_as_a_recording_rounds_them() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    original, changed = (FAMILIES["sdxl"].inputs(1, size, seed) for seed in (5, 6))
    plain, small = (recording(model, original) for _ in range(2))
    small.steps = [in_int8(step) for step in small.steps]
    run, site = next(run for run, leaf in small.step(0).leaves.items() if isinstance(leaf, Int8Memory)), [[0, 1]]
    memory = small.step(0).leaves[run]
    rows = noise(1, memory.tensors[0].shape[1], 2, memory.tensors[0].shape[3], seed=3)
    active = torch.tensor(site[0])
    memory.write(active, rows)
    expected = plain.step(0).leaves[run].tensors[0].index_copy(2, active, rows)
    assert all(map(torch.equal, memory.tensors, Int8Memory.of(Memory((expected,), memory.size)).tensors))
    renewed(model, small, sites_of("block", size), changed)


def test_of_interpolated_steps_the_recorded_ones_are_renewed() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    timesteps = [900, 700, 500, 300]
    original, changed = (
        [FAMILIES["sdxl"].inputs(1, size, seed + number) | {"timestep": at} for number, at in enumerate(timesteps)]
        for seed in (10, 20)
    )
    sites, kept = sites_of("block", size), (0, 2, 3)
    memory = recording(model, *(original[place] for place in kept))
    view = InterpolatedCache(memory, [float(each) for each in timesteps], kept)
    results = renewed(model, view, sites, *changed)
    for place, number in enumerate(kept):
        assert torch.equal(memory.step(place).outputs[0], outputs(results[number])[0])


def test_what_cannot_be_written_to_says_so() -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    original, changed = (FAMILIES["sdxl"].inputs(1, size, seed) for seed in (5, 6))
    memory, sites = recording(model, original), sites_of("block", size)
    memory.steps = [Halos(find_leaves(model), [sites]).cut(memory.step(0))]
    with pytest.raises(CacheError, match=r"cut down to what some masks read.*--cache-rows all"):
        renewed(model, memory, sites, changed)
