"""Steps that were never run: what lies between the recorded ones, and that recorded ones are handed out as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsedit.errors import CacheError
from sparsedit.sparse import ActivationCache, InterpolatedCache
from sparsedit.sparse.cache import Memory, Step
from tests.engine import edited, model_of, nothing, outputs, recorded, same_bits, sites_of, size_of
from tests.families import FAMILIES, Inputs

TIMED = [name for name, family in FAMILIES.items() if "timestep" in family.inputs(1, (16, 24), 0)]
RECORDED = (801.0, 401.0)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def inputs_at(name: str, timestep: float, seed: int) -> Inputs:
    inputs = FAMILIES[name].inputs(2, size_of(name, "even"), seed)
    return inputs | {"timestep": torch.tensor(timestep)}


def coarse(name: str) -> ActivationCache:
    """Two recorded steps, of different inputs."""
    steps = [inputs_at(name, timestep, seed) for seed, timestep in enumerate(RECORDED)]
    memory, _ = recorded(model_of(name), *steps)
    return memory


class Between:
    """The step between two recorded ones, as the first of a schedule."""

    def __init__(self, memory: ActivationCache, timestep: float) -> None:
        first, last = RECORDED
        self.view = InterpolatedCache(memory, [first, timestep, last], [0, 2])
        self.texts = self.view.texts

    def step(self, number: int) -> Step:
        return self.view.step(number + 1)


def tensors(step: Step) -> dict[str, torch.Tensor]:
    found = {f"{run}/{n}": value for run, memory in step.leaves.items() for n, value in enumerate(memory.values)}
    return found | {f"output/{n}": output for n, output in enumerate(step.outputs)}


@pytest.mark.parametrize("name", TIMED)
def test_every_tensor_is_linear_in_the_timestep(name: str) -> None:
    memory = coarse(name)
    view = InterpolatedCache(memory, [801, 701, 401], [0, 2])
    before, after, between = (tensors(step) for step in (memory.step(0), memory.step(1), view.step(1)))
    assert between.keys() == before.keys()
    assert len(between) > 5
    for key, value in between.items():
        assert torch.allclose(value, 0.75 * before[key] + 0.25 * after[key], atol=1e-5), key


@pytest.mark.parametrize("name", TIMED)
def test_a_recorded_step_is_handed_out_as_it_is(name: str) -> None:
    memory = coarse(name)
    view = InterpolatedCache(memory, [801, 600, 401], [0, 2])
    for number, own in ((0, 0), (2, 1)):
        step, kept = view.step(number), memory.step(own)
        assert all(step.leaves[run] is held for run, held in kept.leaves.items())
        assert step.timestep == kept.timestep
    sites = sites_of("block", size_of(name, "even"))
    inputs = inputs_at(name, 801, seed=9)
    plain = edited(model_of(name), memory, sites, inputs)
    assert same_bits(edited(model_of(name), view, sites, inputs), plain)


@pytest.mark.parametrize("name", TIMED)
def test_outside_the_sites_the_output_is_the_interpolated_one(name: str) -> None:
    memory = coarse(name)
    view = Between(memory, 601)
    inputs = inputs_at(name, 601, seed=9)
    remembered = view.step(0).outputs
    untouched = edited(model_of(name), view, nothing(size_of(name, "even")), inputs)
    assert all(torch.equal(*pair) for pair in zip(outputs(untouched), remembered, strict=True))
    sites = sites_of("scattered", size_of(name, "even"))
    changed = edited(model_of(name), view, sites, inputs)
    for new, old in zip(outputs(changed), remembered, strict=True):
        outside = sites.level((new.shape[2], new.shape[3])).position < 0
        assert torch.equal(new.flatten(2)[:, :, outside], old.flatten(2)[:, :, outside])
        assert not torch.equal(new, old)


@pytest.mark.parametrize("kept", [(0, 4), (0, 2, 4), (0, 1, 4, 5), (0, 1, 4, 5, 6)])
def test_a_cubic_is_found_again_as_far_as_the_recorded_steps_carry(kept: tuple[int, ...]) -> None:
    """Two recorded steps carry a line, three a parabola, four and more a cubic."""
    timesteps = [999, 900, 700, 600, 400, 300, 1]
    degree = min(len(kept) - 1, 3)
    memory = ActivationCache()
    for place in kept:
        timestep = torch.tensor(timesteps[place])
        value = ((timestep.double() / 1000) ** degree).view(1, 1)
        leaves = {"norm": Memory((value,), (0, 0))}
        memory.append(Step((8, 8), 1, value.dtype, value.device, timestep, leaves, [value]))
    step = InterpolatedCache(memory, timesteps, kept).step(3)
    assert step.timestep == 600
    assert step.outputs[0].item() == pytest.approx(0.6**degree)
    assert step.leaves["norm"].values[0].item() == pytest.approx(0.6**degree)
    line = InterpolatedCache(memory, timesteps, kept, order=1).step(3).outputs[0].item()
    assert (line == pytest.approx(0.6**degree)) == (degree == 1)


def test_steps_far_from_a_cluster_are_joined_by_lines() -> None:
    """A cubic through 3 steps in a row and one far away swings far beyond all of them."""
    recorded = [900.0, 880.0, 860.0, 840.0, 200.0, 0.0]
    memory = ActivationCache()
    for timestep in recorded:
        at, value = torch.tensor(timestep), torch.tensor([timestep % 70])
        memory.append(Step((8, 8), 1, torch.float32, torch.device("cpu"), at, outputs=[value]))
    timesteps = [900.0, 880.0, 860.0, 840.0, 520.0, 200.0, 100.0, 0.0]
    view = InterpolatedCache(memory, timesteps, [0, 1, 2, 3, 5, 7])
    between = view.step(4).outputs[0]
    assert between.item() == pytest.approx((840 % 70 + 200 % 70) / 2)


def test_rows_and_renewed_tokens_are_those_of_the_whole_tensors() -> None:
    step = Between(coarse("sdxl"), 501).step(0)
    positions = torch.tensor([3, 0, 7])
    kinds = set()
    for memory in step.leaves.values():
        (first, *_), ndim = memory.values, memory.values[0].ndim
        kinds.add(ndim)
        if ndim == 3:
            rows, zeros = memory.around(positions)
            assert torch.equal(rows, first[:, positions])
            assert not zeros.any()
        if ndim == 4:
            new = torch.randn(2, first.shape[1], 3, first.shape[3])
            assert torch.equal(memory.renewed(positions, new), first.index_copy(2, positions, new))
    assert kinds == {2, 3, 4}


def test_reading_a_step_changes_nothing_that_was_recorded() -> None:
    memory = coarse("sdxl")
    before = {key: value.clone() for number in (0, 1) for key, value in tensors(memory.step(number)).items()}
    sites = sites_of("block", size_of("sdxl", "even"))
    edited(model_of("sdxl"), Between(memory, 601), sites, inputs_at("sdxl", 601, seed=9))
    after = {key: value for number in (0, 1) for key, value in tensors(memory.step(number)).items()}
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_prompts_are_shared_and_kept_once() -> None:
    memory = coarse("sdxl")
    assert Between(memory, 601).texts is memory.texts


@pytest.mark.parametrize(("call", "nearest"), [(0, 0), (3, 1)])
def test_beyond_the_recorded_steps_the_nearest_holds(call: int, nearest: int) -> None:
    memory = coarse("sdxl")
    step = InterpolatedCache(memory, [900, 801, 401, 1], [1, 2]).step(call)
    assert step.timestep == [900, 801, 401, 1][call]
    assert all(step.leaves[run] is held for run, held in memory.step(nearest).leaves.items())


def test_what_cannot_be_interpolated_is_refused() -> None:
    with pytest.raises(CacheError, match="2 steps were recorded where 3 were to be"):
        InterpolatedCache(coarse("sdxl"), [801, 601, 401], [0, 1, 2])
    with pytest.raises(CacheError, match="beyond the 2 steps"):
        InterpolatedCache(coarse("sdxl"), [801, 401], [0, 1]).step(2)
    with pytest.raises(CacheError, match="timesteps that fall"):
        InterpolatedCache(coarse("sdxl"), [801, 801, 401], [0, 2])
    decoded = FAMILIES["kl-decoder"].inputs(1, (8, 8), 0)
    timeless, _ = recorded(model_of("kl-decoder"), decoded, decoded)
    with pytest.raises(CacheError, match="without one"):
        InterpolatedCache(timeless, [801, 601, 401], [0, 2]).step(1)
