"""Convolutions' maps without the rows that no edit will read, for when all masks are known before the recording.

A thin convolution reads the remembered rows around its active sites and no others. The rows kept are those around the
sites of any of the masks; an edit with another mask is refused, for what it would read is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsedit.errors import CacheError
from sparsedit.sparse.cache import Memory, Step
from sparsedit.sparse.leaves import Leaf
from sparsedit.sparse.sites import SitePyramid, Window


class KeptRows:
    """Which flat positions [M] of a map are kept, ascending. One object serves all steps, so that look-ups are few."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions
        self._last: tuple[Tensor, Tensor] | None = None

    def find(self, asked: Tensor) -> Tensor:
        """Where the rows of `asked` positions lie among the kept ones; looked up anew for another tensor object.

        Raises CacheError when one of them was not kept.
        """
        if self._last is None or self._last[0] is not asked:
            if not torch.isin(asked, self.positions).all():
                raise CacheError(
                    "this recording keeps only what edits with its own masks read, and this mask is another: "
                    "record the original with this mask too, or keep all rows (--cache-rows all)"
                )
            self._last = asked, torch.searchsorted(self.positions, asked.to(self.positions.dtype))
        return self._last[1]


@dataclass(frozen=True)
class HaloMemory(Memory):
    """Rows [B, M, C] of a map at the positions in `kept`."""

    kept: KeptRows = field(kw_only=True)

    def rows(self, positions: Tensor, out: Tensor | None = None) -> Tensor:
        return super().rows(self.kept.find(positions), out)

    def write(self, active: Tensor, rows: Tensor) -> None:
        raise CacheError(
            "this recording was cut down to what some masks read, so an edit cannot be written into it: "
            "keep all rows (--cache-rows all)"
        )


class Halos:
    """Cuts steps of one model down to what edits on any of `sites` read."""

    def __init__(self, leaves: Iterable[Leaf], sites: Sequence[SitePyramid]) -> None:
        self.leaves = {leaf.name: leaf for leaf in leaves}
        self.sites = sites
        self.kept: dict[Window, KeptRows] = {}

    def cut(self, step: Step) -> Step:
        """The step with every convolution's map as `HaloMemory`."""
        leaves = {}
        for run, memory in step.leaves.items():
            window = self.leaves[run.partition("#")[0]].reach(memory)
            leaves[run] = memory if window is None else self._cut(memory, window)
        return replace(step, leaves=leaves)

    def _cut(self, memory: Memory, window: Window) -> HaloMemory:
        device = memory.tensors[0].device
        if window not in self.kept:
            halos = [pyramid.neighbours(window).halo for pyramid in self.sites]
            self.kept[window] = KeptRows(torch.unique(torch.cat(halos)).int().to(device))
        kept = self.kept[window]
        return HaloMemory((memory.rows(kept.positions),), memory.size, memory.grid, kept=kept)
