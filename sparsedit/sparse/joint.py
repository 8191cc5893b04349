"""Several edits of one original as one thin image: the sites of the first, then those of the second, ...

Edits that share everything but their pixels can pass through a model together. Point-wise operations do not care
whose sites they see, convolutions are told by their plan whose neighbour is whose, and only self-attention has to
keep the edits apart. So the weights are read once for all of them, which is what bounds small edits. Geometry only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsedit.sparse.sites import Neighbours, SitePyramid, Sites, Size, Window


class JointPyramid(SitePyramid):
    """The sites of several edits, none of them empty, one after the other.

    A site that two edits have in common is there twice: `Sites.position` then gives its row in the later one.
    """

    def __init__(self, parts: Sequence[SitePyramid]) -> None:
        super().__init__(torch.stack([part.mask for part in parts]).any(0), device=parts[0].device)
        self._parts = tuple(parts)

    @property
    def parts(self) -> Sequence[SitePyramid]:
        return self._parts

    def to(self, device: torch.device) -> SitePyramid:
        if device == self.device:
            return self
        if device not in self._moved:
            self._moved[device] = JointPyramid([part.to(device) for part in self.parts])
        return self._moved[device]

    def level(self, size: Size) -> Sites:
        if size not in self._levels:
            levels = [part.level(size) for part in self.parts]
            index = torch.cat([level.index for level in levels])
            position = torch.full_like(levels[0].position, -1)
            position[index.cpu()] = torch.arange(len(index), dtype=position.dtype)
            self._levels[size] = Sites(size, index, position)
        return self._levels[size]

    def slices(self, size: Size) -> list[slice]:
        ends = itertools.accumulate((part.level(size).count for part in self.parts), initial=0)
        return [slice(start, end) for start, end in itertools.pairwise(ends)]

    def neighbours(self, window: Window) -> Neighbours:
        if window not in self._plans:
            plans = [part.neighbours(window) for part in self.parts]
            halo = torch.unique(torch.cat([plan.halo for plan in plans]))
            rows = self.level(window.source).count
            moved = [
                _moved(plan, active, rows, halo) for plan, active in zip(plans, self.slices(window.source), strict=True)
            ]
            self._plans[window] = Neighbours(torch.cat(moved), halo)
        return self._plans[window]


def _moved(plan: Neighbours, active: slice, rows: int, halo: Tensor) -> Tensor:
    """One edit's gather over cat(its rows, its halo, zero) as one over cat(all `rows`, everyone's `halo`, zero)."""
    own = torch.arange(active.start, active.stop, device=halo.device)
    zero = halo.new_tensor([rows + len(halo)])
    return torch.cat([own, rows + torch.searchsorted(halo, plan.halo), zero]).index_select(0, plan.gather)
