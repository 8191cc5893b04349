"""Activations of steps that were never run: interpolated between the recorded ones around them.

A recording of K of N steps serves all N: what a leaf reads at timestep t is a polynomial in t through the recorded
steps nearest around it (Lagrange), for every remembered tensor: maps, keys, values, norms' statistics, outputs. A step
that was recorded is handed out as it is, and beyond the recorded ones the nearest holds. Nothing is interpolated before
a leaf asks for it, and of a convolution's map the halo rows alone; prompts' keys and values are shared. Which steps to
record is not decided here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from sparsedit.errors import CacheError
from sparsedit.sparse.cache import ActivationCache, Memory, Step, TextMemory
from sparsedit.sparse.sites import Size

ORDER = 3
"""Of the polynomial, where enough steps were recorded: cubic is worth 2 to 3 dB over linear (benchmarks/NOTES.md)."""

UNEVEN = 6
"""How many times as far apart as others steps may lie for a polynomial through more than two of them; it overshoots."""


class InterpolatedCache:
    """A view of a recording of the `kept` ones of all `timesteps`, as one of all of them, in the order of the calls."""

    def __init__(
        self, cache: ActivationCache, timesteps: Sequence[float], kept: Sequence[int], order: int = ORDER
    ) -> None:
        """Raises CacheError where other steps were recorded, and for timesteps that do not fall from call to call."""
        if len(cache) != len(kept):
            raise CacheError(
                f"{len(cache)} steps were recorded where {len(kept)} were to be; record the original again"
            )
        if any(later >= earlier for earlier, later in pairwise(timesteps)):
            raise CacheError(
                f"activations can be interpolated between timesteps that fall, not between {list(timesteps)}; "
                "record every step, or use a scheduler that calls the model once per timestep"
            )
        self.cache = cache
        self.timesteps = list(timesteps)
        self.kept = list(kept)
        self.points = min(order + 1, len(kept))

    @property
    def texts(self) -> TextMemory:
        return self.cache.texts

    def __len__(self) -> int:
        return len(self.timesteps)

    def home(self, number: int) -> Step | None:
        """The n-th step where it was recorded; the others are made of these."""
        return self.cache.home(self.kept.index(number)) if number in self.kept else None

    def step(self, number: int) -> Step:
        """The n-th step of the whole schedule; CacheError when the edit makes more calls than it has."""
        if number >= len(self.timesteps):
            raise CacheError(f"call {number + 1} is beyond the {len(self.timesteps)} steps this recording stands for")
        timestep = self.timesteps[number]
        after = bisect_left(self.kept, number)
        last = len(self.kept) - 1
        if after in (0, last + 1) or self.kept[after] == number:
            nearest = self.cache.step(min(after, last))
            return replace(nearest, timestep=_like(nearest, timestep))
        around = self._around(after)
        weights = _lagrange([self.timesteps[self.kept[place]] for place in around], timestep)
        return _blended([self.cache.step(place) for place in around], weights, timestep)

    def _around(self, after: int) -> range:
        """Which recorded steps a step before the recorded one at place `after` is made of."""
        first = min(max(after - self.points // 2, 0), len(self.kept) - self.points)
        around = range(first, first + self.points)
        gaps = [earlier - later for earlier, later in pairwise(self.timesteps[self.kept[place]] for place in around)]
        return around if max(gaps) <= UNEVEN * min(gaps) else range(after - 1, after + 1)


class InterpolatedMemory(Memory):
    """What a leaf would have remembered: its memories of some steps by their weights, added up when they are read."""

    def __init__(self, memories: Sequence[Memory], weights: Sequence[float]) -> None:
        self.memories = memories
        self.weights = weights

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.values

    @property
    def values(self) -> tuple[Tensor, ...]:
        columns = zip(*(memory.values for memory in self.memories), strict=True)
        return tuple(_blend(column, self.weights) for column in columns)

    @property
    def size(self) -> Size:
        return self.memories[0].size

    @property
    def grid(self) -> Size | None:
        return self.memories[0].grid

    def rows(self, positions: Tensor, out: Tensor | None = None) -> Tensor:
        return _blend([memory.rows(positions) for memory in self.memories], self.weights, out)

    def renewed(self, active: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        return self.values[0].index_copy_(2, active, rows)


def _blended(steps: Sequence[Step], weights: Sequence[float], timestep: float) -> Step:
    return replace(
        steps[0],
        timestep=_like(steps[0], timestep),
        leaves={run: InterpolatedMemory([step.leaves[run] for step in steps], weights) for run in steps[0].leaves},
        outputs=[_blend(column, weights) for column in zip(*(step.outputs for step in steps), strict=True)],
    )


def _blend(tensors: Sequence[Tensor], weights: Sequence[float], out: Tensor | None = None) -> Tensor:
    total = torch.mul(tensors[0], weights[0], out=out)
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def _lagrange(places: Sequence[float], at: float) -> list[float]:
    """What the values at each of `places` count at `at`, for the polynomial through all of them."""
    return [math.prod((at - other) / (place - other) for other in places if other != place) for place in places]


def _like(step: Step, timestep: float) -> Tensor:
    if step.timestep is None:
        raise CacheError("only calls at a timestep can be interpolated; this model was called without one")
    return torch.full_like(step.timestep, timestep)
