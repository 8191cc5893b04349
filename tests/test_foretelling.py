"""Calls that are left out: the line through the last changes, what is asked of the model, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsedit.errors import CacheError, EngineError
from sparsedit.sparse import ActivationCache, Foretelling, leaving_out, record, renewing, sparse
from sparsedit.sparse.cache import SomeSteps
from sparsedit.sparse.rows import map_tensors, tensors_of
from tests.engine import model_of, outputs, recorded, same_bits, sites_of, size_of
from tests.families import FAMILIES, Inputs

TIMED = [name for name, family in FAMILIES.items() if "timestep" in family.inputs(1, (16, 24), 0)]
TIMES = (901.0, 801.0, 601.0, 401.0, 301.0, 1.0)
MADE = (0, 1, 4)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def run(name: str, seed: int) -> list[Inputs]:
    """Inputs of six calls: alike in all that is not noise, such as the prompt."""
    return [FAMILIES[name].inputs(2, size_of(name, "even"), seed) | {"timestep": torch.tensor(time)} for time in TIMES]


@pytest.mark.parametrize("name", TIMED)
def test_calls_left_out_are_the_originals_and_the_change_on_a_line(name: str) -> None:
    model = model_of(name)
    memory, _ = recorded(model, *run(name, 0))
    inputs = run(name, 1)
    whole = [outputs(model(**each)) for each in inputs]
    asked: list[Any] = []
    hook = next(model.children()).register_forward_pre_hook(lambda *_: asked.append(None))
    foretelling = Foretelling(memory, MADE)
    with leaving_out(model, foretelling):
        answered = [model(**each) for each in inputs]
    hook.remove()
    assert type(answered[2]) is type(answered[0])
    assert len(asked) == len(MADE)
    for number, answer in enumerate(answered):
        for place, tensor in enumerate(outputs(answer)):
            changes = {made: whole[made][place] - memory.step(made).outputs[place] for made in MADE}
            slope = changes[1] - changes[0]
            expected = {
                2: memory.step(2).outputs[place] + changes[1] + slope,
                3: memory.step(3).outputs[place] + changes[1] + 2 * slope,
                5: memory.step(5).outputs[place] + changes[4] + (changes[4] - changes[1]) / 3,
            }.get(number, whole[number][place])
            assert torch.allclose(tensor, expected, atol=1e-4)
    assert sorted(foretelling.told) == [2, 3, 5]


@pytest.mark.parametrize("name", TIMED)
def test_where_nothing_changes_they_are_the_originals_bit_for_bit(name: str) -> None:
    model, sites = model_of(name), sites_of("block", size_of(name, "even"))
    memory, _ = recorded(model, *run(name, 0))
    originals, edits = [model(**each) for each in run(name, 0)], run(name, 1)
    foretelling = Foretelling(memory, MADE)
    size = size_of(name, "even")
    with sparse(model, SomeSteps(memory, MADE), sites, foretelling=foretelling):
        answered = [model(**each) for each in edits]
    outside = torch.ones(size[0] * size[1], dtype=torch.bool)
    outside[sites.level(size).index] = False
    for answer, original in zip(answered, originals, strict=True):
        for ours, theirs in zip(outputs(answer), outputs(original), strict=True):
            if ours.shape[2:] == size:
                assert same_bits(ours.flatten(2)[..., outside], theirs.flatten(2)[..., outside])
    with leaving_out(model, Foretelling(memory, MADE)):
        same = [model(**each) for each in run(name, 0)]
    assert all(same_bits(ours, theirs) for ours, theirs in zip(same, originals, strict=True))


@pytest.mark.parametrize("name", TIMED)
def test_a_lone_first_call_is_made_of_its_second_row(name: str) -> None:
    """Of rows whose first is the original's, and whose answer is that of both rows together."""
    model = model_of(name)
    memory, _ = recorded(model, *run(name, 0))
    inputs = run(name, 1)
    originals = iter([tensor for tensor in tensors_of(run(name, 0)[0]) if tensor.ndim])
    inputs[0] = map_tensors(inputs[0], lambda own: torch.cat([next(originals)[:1], own[1:]]) if own.ndim else own)
    expected = outputs(model(**inputs[0]))
    rows: list[int] = []
    hook = next(model.children()).register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    with leaving_out(model, Foretelling(memory, MADE), lone=True):
        answered = [outputs(model(**each)) for each in inputs]
    hook.remove()
    assert rows[0] == 1
    assert set(rows[1:]) == {2}
    for ours, theirs, recorded_one in zip(answered[0], expected, memory.step(0).outputs, strict=True):
        assert torch.equal(ours[:1], recorded_one[:1])
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_recording_and_a_renewal_hold_what_was_made() -> None:
    name = TIMED[0]
    model, sites = model_of(name), sites_of("block", size_of(name, "even"))
    memory, _ = recorded(model, *run(name, 0))
    inputs = run(name, 1)
    held = ActivationCache()
    with record(model, held, foretelling=Foretelling(memory, MADE)):
        for each in inputs:
            model(**each)
    assert [step.timestep.item() for step in held if step.timestep is not None] == [TIMES[place] for place in MADE]
    left = [[out.clone() for out in memory.step(place).outputs] for place in (2, 3, 5)]
    some = SomeSteps(memory, MADE)
    with renewing(model, some, sites, foretelling=Foretelling(memory, MADE)) as renewal:
        answered = [outputs(model(**each)) for each in inputs]
    renewal.write()
    index = sites.level(size_of(name, "even")).index
    for place in MADE:
        for written, answer in zip(memory.step(place).outputs, answered[place], strict=True):
            assert torch.equal(written.flatten(2)[..., index], answer.flatten(2)[..., index])
    for place, before in zip((2, 3, 5), left, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(memory.step(place).outputs, before, strict=True))


def test_one_goes_on_from_context_to_context() -> None:
    name = TIMED[0]
    model, sites = model_of(name), sites_of("block", size_of(name, "even"))
    memory, _ = recorded(model, *run(name, 0))
    inputs = run(name, 1)
    with leaving_out(model, Foretelling(memory, MADE)):
        alone = [outputs(model(**each)) for each in inputs]
    foretelling = Foretelling(memory, MADE)
    with leaving_out(model, foretelling):
        first = [outputs(model(**each)) for each in inputs[:4]]
    with sparse(model, SomeSteps(memory, (4,)), sites, foretelling=foretelling):
        rest = [outputs(model(**each)) for each in inputs[4:]]
    for ours, theirs in zip(first, alone[:4], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert foretelling.call == 6
    assert not torch.equal(rest[0][0], alone[4][0])


def test_a_first_call_cannot_be_left_out_nor_more_be_made_than_said() -> None:
    name = TIMED[0]
    model = model_of(name)
    memory, _ = recorded(model, *run(name, 0))
    inputs = run(name, 1)
    with pytest.raises(EngineError, match="cannot be left out"), leaving_out(model, Foretelling(memory, (1,))):
        model(**inputs[0])
    sites = sites_of("block", size_of(name, "even"))
    with sparse(model, SomeSteps(memory, (0,)), sites):
        model(**inputs[0])
        with pytest.raises(CacheError, match="was to make 1"):
            model(**inputs[1])
    assert "forward" not in vars(model)
