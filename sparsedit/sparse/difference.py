"""A recording moved by what one call of another run differs by from the same call of its own.

What new words do to a picture all over they do at all steps much alike. So what a dense call under new words leaves,
less what the original's left there, is added to what the original left later on: the surroundings of an edit's sites,
as the new words would have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sparsedit.sparse.cache import Memory, Renewable, Step, TextMemory
from sparsedit.sparse.interpolation import InterpolatedMemory
from sparsedit.sparse.norm import follows


def difference(step: Step, other: Step) -> Step:
    """What one call leaves less what another of the same model leaves, but for norms that follow an edit there."""
    leaves = {
        run: Memory(_less(step.leaves[run].values, memory.values), memory.size, memory.grid)
        for run, memory in other.leaves.items()
        if not follows(memory)
    }
    return replace(step, leaves=leaves, outputs=list(_less(step.outputs, other.outputs)))


class ChangedCache:
    """A view of a recording with the same `change` added to the leaves of every step; what is written to it goes to the
    recording.

    Norms that follow an edit are left as they are recorded: their moments are taken about their means and do not add,
    and what the edit does to them they see at its sites.
    """

    def __init__(self, cache: Renewable, change: Step) -> None:
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
        step = self.cache.step(number)
        leaves = {
            run: memory if follows(memory) else InterpolatedMemory((memory, self.change.leaves[run]), (1.0, 1.0))
            for run, memory in step.leaves.items()
        }
        return replace(step, leaves=leaves)


def _less(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor - other for tensor, other in zip(tensors, others, strict=True))
