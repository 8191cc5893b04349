"""Memory for large copies: the same bits, handed out again, and nothing that is remembered written over."""

from __future__ import annotations

import pytest
import torch

from sparsedit.sparse import alongside, rooms, sparse
from sparsedit.sparse.rooms import LARGE, Rooms
from tests.engine import edited, model_of, outputs, recorded, same_bits, sites_of, size_of
from tests.families import FAMILIES
from tests.test_alongside import interleaved


@pytest.mark.parametrize("name", ["sdxl", "sd15", "ddim", "kl-decoder"])
@torch.no_grad()
def test_attention_in_such_memory_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = model_of(name), size_of(name, "even")
    then, now = (FAMILIES[name].inputs(2, size, seed) for seed in (1, 2))
    memory, _ = recorded(model, then, then)
    held = {run: [tensor.clone() for tensor in kept.tensors] for run, kept in memory.step(0).leaves.items()}
    expected = edited(model, memory, sites_of("block", size), now)
    used: list[str] = []
    given = Rooms.like

    def like(own: Rooms, tensor: torch.Tensor, use: str) -> torch.Tensor | None:
        room = given(own, tensor, use)
        used.append(use if room is not None else "none")
        return room

    monkeypatch.setattr(Rooms, "like", like)
    monkeypatch.setattr(rooms, "LARGE", 0)
    with sparse(model, memory, sites_of("block", size)):
        first, second = (outputs(model(**now)) for _ in range(2))
    assert same_bits(first, outputs(expected))
    assert same_bits(second, first)
    assert set(used) == {"to_k", "to_v"}
    for run, kept in memory.step(0).leaves.items():
        assert all(map(torch.equal, kept.tensors, held[run]))


@torch.no_grad()
def test_edits_that_run_together_take_turns_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = model_of("sdxl"), size_of("sdxl", "even")
    pictures = [FAMILIES["sdxl"].inputs(1, size, seed) for seed in (1, 2, 3)]
    batch = {name: interleaved([picture[name] for picture in pictures]) for name in pictures[0]}
    sites = [sites_of(kind, size) for kind in ("block", "corner")]

    def together() -> list[torch.Tensor]:
        with alongside(model, sites):
            return outputs(model(**batch))

    expected = together()
    monkeypatch.setattr(rooms, "LARGE", 0)
    assert same_bits(together(), expected)


def test_one_room_for_each_use_and_shape() -> None:
    own, large = Rooms(), torch.empty(LARGE // 4)
    with torch.no_grad():
        room = own.like(large, "to_k")
        assert room is not None
        assert room.data_ptr() != large.data_ptr()
        assert own.like(torch.empty_like(large), "to_k") is room
        assert own.like(large, "to_v") is not room
        assert own.like(large[1:], "to_k") is None, "smaller pieces are at hand anyway"
        with torch.inference_mode():
            assert own.like(large, "to_k") is not room, "a tensor made in inference mode cannot be written outside it"
    assert own.like(large, "to_k") is None, "what gradients are taken of must stay as it is"
