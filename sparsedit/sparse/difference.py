"""A recording moved by what another run differs by: measured at a few steps, added to every one.

Two runs of the same few steps, of the recording's own inputs and of others, leave activations that are as coarse as
each other. Their difference is not: what few steps get wrong, both get wrong alike. Interpolated and added to a
recording of all steps, it makes of it what a recording of the other run would hold, as the edit's surroundings need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sparsedit.errors import CacheError
from sparsedit.sparse.cache import ActivationCache, Memory, Remembered, Renewable, Step, TextMemory
from sparsedit.sparse.interpolation import InterpolatedMemory
from sparsedit.sparse.norm import follows


def difference(cache: ActivationCache, other: ActivationCache) -> ActivationCache:
    """What the steps of a recording differ by from those of another one of as many, every tensor of theirs.

    Raises CacheError where they are not as many.
    """
    if len(cache) != len(other):
        raise CacheError(f"{len(cache)} recorded steps cannot be compared with {len(other)}; record both again")
    found = ActivationCache()
    found.steps = [_difference(step, base) for step, base in zip(cache, other, strict=True)]
    return found


class ChangedCache:
    """A view of a recording, every step of it with the same step of a `change` added; what is written to it goes to
    the recording.

    Norms that follow an edit are left as they are recorded: their moments are taken about their means and do not add,
    and what the edit does to them they see at its sites.
    """

    def __init__(self, cache: Renewable, change: Remembered) -> None:
        self.cache = cache
        self.change = change

    @property
    def texts(self) -> TextMemory:
        return self.cache.texts

    def __len__(self) -> int:
        return len(self.cache)

    def home(self, number: int) -> Step | None:
        return self.cache.home(number)

    def step(self, number: int) -> Step:
        """The n-th step; CacheError as the recording raises it."""
        step, change = self.cache.step(number), self.change.step(number)
        leaves = {
            run: memory if follows(memory) else _added(memory, change.leaves[run])
            for run, memory in step.leaves.items()
        }
        return replace(step, leaves=leaves)


def _added(memory: Memory, change: Memory) -> Memory:
    parts = [(memory, 1.0)]
    if isinstance(change, InterpolatedMemory):
        parts += zip(change.memories, change.weights, strict=True)
    else:
        parts.append((change, 1.0))
    return InterpolatedMemory(*zip(*parts, strict=True))


def _difference(step: Step, other: Step) -> Step:
    leaves = {
        run: replace(memory, tensors=_less(memory.tensors, other.leaves[run].tensors))
        for run, memory in step.leaves.items()
    }
    return replace(step, leaves=leaves, outputs=list(_less(step.outputs, other.outputs)))


def _less(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor - other for tensor, other in zip(tensors, others, strict=True))
