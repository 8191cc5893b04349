"""Activations of a canvas that moves: every remembered row goes where its pixel goes.

A pan hands rows out as they were recorded, bit for bit, all of a map shifted by as many whole sites as come nearest;
when the canvas turns, rows are interpolated between the four around (measured: benchmarks/NOTES.md). What was
beyond the canvas is filled with the nearest row; those sites are for the edit to compute. Statistics of whole maps and
prompts do not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedit.sparse.cache import ActivationCache, Memory, Remembered, Step, TextMemory
from sparsedit.sparse.sites import Indices, Size

_WHOLE = 1e-6
"""By how much of a site a position may miss it and still be it."""

Taps = tuple[Tensor, Tensor | None]
"""Sources [k, T] of every site of a map and how much each counts, [k, T]; None where there is one, k = 1."""


class Motion:
    """Where every point of a canvas comes from.

    `matrix` and `offset` lead from a point (y, x) of the moved canvas to where it was: matrix @ point + offset, in
    pixels of the canvas of `size` (height, width), measured from its upper left corner. Between sites values are
    interpolated, or with `nearest` taken from one. `since` are the offsets of the pans before this one, taken together:
    maps that were shifted by whole sites then are shifted so that the whole way comes nearest, not each part of it.
    """

    def __init__(
        self,
        size: Size,
        matrix: Sequence[Sequence[float]],
        offset: Sequence[float],
        *,
        nearest: bool = False,
        since: Sequence[float] = (0, 0),
    ) -> None:
        self.size = size
        self.nearest = nearest
        self.since = np.array(since, dtype=np.float64)
        self.matrix = np.array(matrix, dtype=np.float64)
        self.offset = np.array(offset, dtype=np.float64)
        self._taps: dict[tuple[Size, bool, torch.device], Taps] = {}

    @classmethod
    def pan(cls, size: Size, right: float, down: float, *, since: tuple[float, float] = (0, 0)) -> Motion:
        """All moves by that many pixels, after it moved by `since` (right, down) already."""
        return cls(size, [[1, 0], [0, 1]], [-down, -right], nearest=True, since=[-since[1], -since[0]])

    @classmethod
    def turn(cls, size: Size, angle: float) -> Motion:
        """All turns around the canvas' centre by `angle` degrees, counterclockwise as it is seen."""
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        matrix = np.array([[cosine, sine], [-sine, cosine]])  # back again, y pointing down
        centre = np.array(size) / 2
        return cls(size, matrix.tolist(), (centre - matrix @ centre).tolist())

    def left_empty(self, size: Size) -> Tensor:
        """Where a map of that size shows what was not on the canvas: bool [H, W]."""
        y, x = self.positions(size)
        outside = (
            (y < -0.5 - _WHOLE) | (y > size[0] - 0.5 + _WHOLE) | (x < -0.5 - _WHOLE) | (x > size[1] - 0.5 + _WHOLE)
        )
        return torch.from_numpy(outside)

    def exact(self, size: Size) -> bool:
        """Whether a map of that size moves by whole sites."""
        return all(bool((np.abs(axis - np.rint(axis)) < _WHOLE).all()) for axis in self.positions(size))

    def move(self, map_: Tensor, *, nearest: bool = False) -> Tensor:
        """A map [B, C, H, W] moved; `nearest` takes the nearest site's value rather than one between four."""
        size = (map_.shape[2], map_.shape[3])
        return self.tokens(map_.flatten(2), 2, size, nearest=nearest).view(map_.shape)

    def tokens(self, values: Tensor, axis: int, size: Size, *, nearest: bool = False) -> Tensor:
        """A tensor whose `axis` counts the sites of a map of that size, row by row, moved."""
        sources, weights = self.taps(size, values.device, nearest=nearest)
        if weights is None:
            return values.index_select(axis, sources[0])
        count = values.shape[axis]
        rows = values.reshape(-1, math.prod(values.shape[axis + 1 :]))
        maps = torch.arange(len(rows) // count, device=rows.device)
        where = (count * maps[:, None, None] + sources.mT).flatten(0, 1)
        shares = weights.mT.to(rows.dtype).repeat(len(maps), 1)
        # Sums of four rows each, read once; gathered one after the other they take 4 to 20 times as long.
        return F.embedding_bag(where, rows, mode="sum", per_sample_weights=shares).view(values.shape)

    def taps(self, size: Size, device: torch.device, *, nearest: bool = False) -> Taps:
        """From where each site of a map of that size takes its row, found once."""
        key = (size, nearest, device)
        if key not in self._taps:
            sources, weights = self._find(size, nearest)
            self._taps[key] = (sources.to(device), None if weights is None else weights.to(device))
        return self._taps[key]

    def positions(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Where the sites of a map come from, y and x [H, W] in its own sites, a site's middle being whole."""
        scale = np.array(self.size) / np.array(size)
        y, x = np.meshgrid((np.arange(size[0]) + 0.5) * scale[0], (np.arange(size[1]) + 0.5) * scale[1], indexing="ij")
        points = np.stack([y, x])
        was = np.tensordot(self.matrix, points, 1) + self.offset[:, None, None]
        return was[0] / scale[0] - 0.5, was[1] / scale[1] - 0.5

    def _find(self, size: Size, nearest: bool) -> Taps:
        if self.nearest and (self.matrix == np.eye(2)).all():
            y, x = np.indices(size).reshape(2, -1) + self._shift(size)[:, None]
            return torch.from_numpy(_flat(y, x, size)[None]), None
        y, x = (axis.ravel() for axis in self.positions(size))
        if nearest or self.nearest or self.exact(size):
            return torch.from_numpy(_flat(np.rint(y), np.rint(x), size)[None]), None
        top, left = np.floor(y), np.floor(x)
        below, beside = y - top, x - left
        corners = [(0, 0, (1 - below) * (1 - beside)), (0, 1, (1 - below) * beside),
                   (1, 0, below * (1 - beside)), (1, 1, below * beside)]  # fmt: skip
        sources = np.stack([_flat(top + down, left + right, size) for down, right, _ in corners])
        return torch.from_numpy(sources), torch.from_numpy(np.stack([weight for *_, weight in corners]))

    def _shift(self, size: Size) -> np.ndarray:
        """By how many sites (y, x) of a map of that size a pan looks beside a site: as whole numbers for all alike."""
        scale = np.array(self.size) / np.array(size)
        whole: np.ndarray = np.floor((self.since + self.offset) / scale + 0.5) - np.floor(self.since / scale + 0.5)
        return whole


class MovedCache:
    """A recording of an original as one of the same original on a moved canvas."""

    def __init__(self, cache: Remembered, motion: Motion) -> None:
        self.cache = cache
        self.motion = motion

    @property
    def texts(self) -> TextMemory:
        return self.cache.texts

    def step(self, number: int) -> Step:
        step = self.cache.step(number)
        leaves: dict[str, Memory] = {run: MovedMemory(memory, self.motion) for run, memory in step.leaves.items()}
        return replace(step, leaves=leaves, outputs=[self.motion.move(output) for output in step.outputs])


class SettlingCache(MovedCache):
    """A moved recording that the edit made upon it is written into, once it has moved for good."""

    def __init__(self, cache: ActivationCache, motion: Motion) -> None:
        super().__init__(cache, motion)
        self.recording = cache

    def __len__(self) -> int:
        return len(self.recording)

    def settle(self) -> None:
        """Move the recording itself, step by step; nothing is read of this view any more."""
        with torch.inference_mode():  # in which alone what a recording holds can be written to
            for number in range(len(self)):
                step = self.step(number)
                leaves = {run: Memory(memory.values, memory.size, memory.grid) for run, memory in step.leaves.items()}
                self.recording.steps[number] = replace(step, leaves=leaves)

    def home(self, number: int) -> Step | None:
        return self.recording.home(number)


class MovedMemory(Memory):
    """What a leaf would have remembered of the moved canvas, moved when it is read."""

    def __init__(self, memory: Memory, motion: Motion) -> None:
        self.memory = memory
        self.motion = motion

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.values

    @property
    def values(self) -> tuple[Tensor, ...]:
        return tuple(map(self._moved, self.memory.values))

    @property
    def size(self) -> Size:
        return self.memory.size

    @property
    def grid(self) -> Size | None:
        return self.memory.grid

    def rows(self, positions: Tensor, out: Tensor | None = None) -> Tensor:
        sources, weights = self.motion.taps(self.size, positions.device)
        if weights is None:
            return self.memory.rows(sources[0, positions], out)
        rows = [self.memory.rows(source[positions]) for source in sources]
        parts = [row * weight[positions, None].to(row.dtype) for row, weight in zip(rows, weights, strict=True)]
        return torch.sum(torch.stack(parts), 0, out=out)

    def renewed(self, active: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        return self.values[0].index_copy_(2, active, rows)

    def _moved(self, tensor: Tensor) -> Tensor:
        """Rows [B, T, C], or keys and values [B, heads, T, d]; what has no sites [B, C] stays."""
        return tensor if tensor.ndim == 2 else self.motion.tokens(tensor, tensor.ndim - 2, self.size)


def _flat(y: np.ndarray, x: np.ndarray, size: Size) -> np.ndarray:
    """Flat positions on a map, those beyond it at its border."""
    flat: Indices = (y.clip(0, size[0] - 1) * size[1] + x.clip(0, size[1] - 1)).astype(np.int64)
    return flat
