"""A recording changed by what another run differs by: formula, invariants, and where its writes go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsedit.sparse import ChangedCache, renewing, sparse
from sparsedit.sparse.difference import difference
from tests.engine import edited, model_of, outputs, recorded, same_bits, sites_of, size_of
from tests.families import FAMILIES, Inputs

TIMED = [name for name, family in FAMILIES.items() if "timestep" in family.inputs(1, (16, 24), 0)]
TIMES = (801.0, 601.0, 401.0)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def inputs_at(name: str, timestep: float, seed: int) -> Inputs:
    return FAMILIES[name].inputs(2, size_of(name, "even"), seed) | {"timestep": torch.tensor(timestep)}


def run(name: str, seed: int, times: tuple[float, ...] = TIMES) -> list[Inputs]:
    """Inputs of one run: alike in all that is not noise, such as the prompt."""
    return [inputs_at(name, time, seed) for time in times]


@pytest.mark.parametrize("name", TIMED)
def test_a_recording_that_nothing_differs_from_is_read_as_it_is(name: str) -> None:
    model = model_of(name)
    memory, _ = recorded(model, *run(name, 0))
    other, _ = recorded(model, *run(name, 1))
    view = ChangedCache(memory, difference(other.step(1), other.step(1)))
    sites, inputs = sites_of("block", size_of(name, "even")), run(name, 7)
    with sparse(model, memory, sites):
        plain = [model(**each) for each in inputs]
    with sparse(model, view, sites):
        assert all(same_bits(model(**each), expected) for each, expected in zip(inputs, plain, strict=True))


@pytest.mark.parametrize("name", TIMED)
def test_a_difference_makes_its_step_that_of_the_other_recording(name: str) -> None:
    """The sites are read beside what the other run left, as if that had been recorded."""
    model = model_of(name)
    memory, other = (recorded(model, *run(name, seed, TIMES[:1]))[0] for seed in (0, 1))
    view = ChangedCache(memory, difference(other.step(0), memory.step(0)))
    sites = sites_of("block", size_of(name, "even"))
    rows = sites.level(size_of(name, "even")).index
    inputs = inputs_at(name, TIMES[0], 1)
    ours, theirs = (outputs(edited(model, cache, sites, inputs)) for cache in (view, other))
    own = outputs(edited(model, memory, sites, inputs))
    for a, b, c in zip(ours, theirs, own, strict=True):
        if a.shape[2:] == size_of(name, "even"):
            a, b, c = (each.flatten(2)[..., rows] for each in (a, b, c))
            assert torch.allclose(a, b, atol=1e-4)
            assert not torch.allclose(a, c, atol=1e-4)


def test_at_other_steps_it_is_the_recording_and_the_same_difference() -> None:
    name = TIMED[0]
    model = model_of(name)
    memory, other = (recorded(model, *run(name, seed))[0] for seed in (0, 1))
    step = ChangedCache(memory, difference(other.step(0), memory.step(0))).step(2)
    found = 0
    for leaf, memories in step.leaves.items():
        parts = (memory.step(2), other.step(0), memory.step(0))
        columns = zip(memories.values, *(part.leaves[leaf].values for part in parts), strict=True)
        for value, whole, new, own in columns:
            assert torch.allclose(value, whole + new - own, atol=1e-4), leaf
            found += 1
    assert found > 5


def test_what_is_written_goes_to_the_recording() -> None:
    name = TIMED[0]
    model, sites = model_of(name), sites_of("block", size_of(name, "even"))
    memory, other = (recorded(model, *run(name, seed, TIMES[:1]))[0] for seed in (0, 1))
    change = difference(other.step(0), memory.step(0))
    before = [value.clone() for leaf in change.leaves.values() for value in leaf.values]
    result = edited(model, ChangedCache(memory, change), sites, inputs_at(name, TIMES[0], 1))
    with renewing(model, ChangedCache(memory, change), sites) as renewal:
        model(**inputs_at(name, TIMES[0], 1))
    renewal.write()
    index = sites.level(size_of(name, "even")).index
    for written, wanted in zip(memory.step(0).outputs, outputs(result), strict=True):
        assert torch.equal(written.flatten(2)[..., index], wanted.flatten(2)[..., index])
    after = [value for leaf in change.leaves.values() for value in leaf.values]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
