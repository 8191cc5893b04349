"""What a cache holds, how large it is, and that a prompt's keys and values are projected once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsedit.errors import CacheError
from sparsedit.sparse import ActivationCache, alongside, record, sparse
from sparsedit.sparse.cache import TextMemory
from tests.engine import counted, edited, model_of, recorded, relative_error, same_bits, sites_of, whole
from tests.families import FAMILIES, TEXT, Inputs, noise

SIZE = (9, 14)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def inputs_of(seed: int = 5, **changed: Any) -> Inputs:
    return FAMILIES["sdxl"].inputs(2, SIZE, seed) | changed


def prompt(seed: int) -> Tensor:
    return noise(2, 7, TEXT, seed=seed)


def tensors_in(memory: ActivationCache) -> list[Tensor]:
    kept = [tensor for step in memory for leaf in step.leaves.values() for tensor in leaf.tensors]
    return kept + [out for step in memory for out in step.outputs] + list(memory.texts.projected.values())


def test_a_cache_says_how_many_bytes_it_holds() -> None:
    memory, _ = recorded(model_of("sdxl"), inputs_of(), inputs_of(timestep=401))
    assert memory.nbytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(memory))
    assert memory.nbytes == sum(step.nbytes for step in memory) + memory.texts.nbytes
    assert memory.peak_bytes == memory.nbytes
    single, _ = recorded(model_of("sdxl"), inputs_of())
    assert memory.nbytes - single.nbytes == single.step(0).nbytes


def test_a_cache_owns_its_memory() -> None:
    """Nothing kept is a view of what the caller passed in or got back, nor of more than itself."""
    model, inputs = model_of("custom"), FAMILIES["custom"].inputs(1, SIZE, 5)
    memory, result = recorded(model, inputs)
    before = [tensor.clone() for tensor in tensors_in(memory)]
    inputs["picture"].zero_()
    for out in result:
        out.zero_()
    assert all(torch.equal(*pair) for pair in zip(tensors_in(memory), before, strict=True))
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors_in(memory))


def test_edits_leave_the_cache_as_it_was() -> None:
    memory, _ = recorded(model_of("sdxl"), inputs_of())
    before = [tensor.clone() for tensor in tensors_in(memory)]
    for kind in ("block", "scattered"):
        edited(model_of("sdxl"), memory, sites_of(kind, SIZE), inputs_of(6, encoder_hidden_states=prompt(7)))
    assert len(tensors_in(memory)) == len(before)
    assert all(torch.equal(*pair) for pair in zip(tensors_in(memory), before, strict=True))


def test_clear_forgets_everything_and_recording_anew_forgets_what_was() -> None:
    memory, _ = recorded(model_of("sdxl"), inputs_of(), inputs_of())
    with record(model_of("sdxl"), memory):
        assert len(memory) == 0
        model_of("sdxl")(**inputs_of())
    assert len(memory) == 1
    memory.clear()
    assert (len(memory), memory.nbytes, memory.texts.texts) == (0, 0, [])
    with pytest.raises(CacheError, match="nothing was recorded"):
        memory.step(0)


def test_steps_are_counted_from_the_first_call() -> None:
    memory, _ = recorded(model_of("sdxl"), inputs_of(timestep=801), inputs_of(timestep=401))
    assert [step.timestep.item() for step in memory if step.timestep is not None] == [801, 401]
    assert memory.step(1) is list(memory)[1]
    with pytest.raises(CacheError, match="call 3 has no recorded step: the original was recorded over 2"):
        memory.step(2)


def test_a_prompt_is_projected_once_however_many_calls_and_edits() -> None:
    model = FAMILIES["sdxl"].build()
    calls = counted(model)
    inputs = inputs_of()
    memory, _ = recorded(model, inputs, inputs | {"timestep": 401})
    assert set(calls.values()) == {1}
    equal = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].clone()}
    for edit in (inputs, equal):
        with sparse(model, memory, sites_of("block", SIZE)):
            model(**edit)
            model(**edit | {"timestep": 401})
    assert set(calls.values()) == {1}


def test_an_edits_own_prompt_is_projected_once_and_goes_with_the_edit() -> None:
    model = FAMILIES["sdxl"].build()
    inputs = inputs_of()
    memory, _ = recorded(model, inputs, inputs)
    calls, held = counted(model), memory.nbytes
    for _ in range(2):
        with sparse(model, memory, sites_of("block", SIZE)):
            for _ in range(2):
                model(**inputs | {"encoder_hidden_states": prompt(7)})
        assert memory.nbytes == held
    assert set(calls.values()) == {2}
    assert len(memory.texts.texts) == 1


def test_alongside_projects_each_prompt_once() -> None:
    model = FAMILIES["sdxl"].build()
    calls, inputs = counted(model), FAMILIES["sdxl"].inputs(4, SIZE, 5)
    with alongside(model, [sites_of("block", SIZE)]):
        for timestep in (801, 401, 1):
            model(**inputs | {"timestep": timestep})
    assert set(calls.values()) == {2}


def test_a_prompt_written_into_the_same_tensor_is_another_prompt() -> None:
    model, text = model_of("sdxl"), prompt(7)
    inputs = inputs_of(encoder_hidden_states=text)
    memory, first = recorded(model, inputs)
    with sparse(model, memory, whole(SIZE)):
        assert relative_error(model(**inputs), first) <= 1e-5
    text.copy_(prompt(8))
    rewritten = edited(model, memory, whole(SIZE), inputs)
    apart = edited(model, memory, whole(SIZE), inputs | {"encoder_hidden_states": prompt(8)})
    assert same_bits(rewritten, apart)
    assert relative_error(rewritten, first) > 1e-3


def test_text_memory_knows_an_object_an_equal_and_a_stranger() -> None:
    texts, first = TextMemory(), prompt(1)
    assert texts.find(first) == 0
    assert texts.find(first) == 0
    assert texts.find(first.clone()) == 0
    assert texts.find(prompt(2)) == 1
    assert texts.find(first.double()) == 2
    assert texts.find(first[:, :5]) == 3
    assert texts.find(prompt(2)) == 1


def test_text_memory_sees_what_was_written_in_place() -> None:
    texts, text = TextMemory(), prompt(1)
    assert texts.find(text) == 0
    text.copy_(prompt(2))
    assert texts.find(text) == 1
    assert texts.find(prompt(2)) == 1
    assert texts.find(prompt(1)) == 2


def test_a_child_knows_its_parents_prompts_and_keeps_its_own_to_itself() -> None:
    parent, first, second = TextMemory(), prompt(1), prompt(2)
    parent.projected["to_k", parent.find(first)] = first
    child = parent.child()
    assert child.find(first.clone()) == 0
    child.projected["to_k", child.find(second)] = second
    assert child.nbytes == 2 * parent.nbytes
    assert parent.find(prompt(3)) == 1
    assert child.find(second) == 1
    assert ("to_k", 1) not in parent.projected
