"""Pictures of one batch: the rows of each picked out of a call's arguments, and results laid out as they were.

Pipelines lay a batch out as [original, variant 1, ..., variant k], repeated for every half of guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse.joint import JointPyramid
from sparsedit.sparse.rows import map_tensors, tensors_of
from sparsedit.sparse.sites import SitePyramid

Group = tuple[list[int], SitePyramid]
"""Rows of a batch, the first variant's being 1, and their sites together."""


class RowPicker:
    """Picks the rows of one picture from arguments batched as [original, variants...] per guidance half.

    What is no image ([B, C, H, W]) stays the same object from call to call, so that a prompt is recognised.
    """

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures
        self.kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, row: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        batch = next((tensor.shape[0] for tensor in tensors_of(args) + tensors_of(kwargs) if tensor.ndim == 4), 0)
        if batch == 0 or batch % self.pictures:
            raise EngineError(
                f"a batch of {batch} cannot hold {self.pictures} pictures (an original and its variants) in equal parts"
            )

        def select(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or tensor.shape[0] != batch:
                return tensor
            if tensor.ndim == 4:
                return tensor[row :: self.pictures]
            key = (id(tensor), row)
            if key not in self.kept or self.kept[key][0] is not tensor:
                self.kept[key] = (tensor, tensor[row :: self.pictures])
            return self.kept[key][1]

        return map_tensors(args, select), map_tensors(kwargs, select)


class Grouping:
    """Which variants run together: those whose arguments are equal but for their maps [B, C, H, W].

    `apart` lets every variant run alone, and so does an empty mask. Within a group masks are ordered by what they
    are, so that results do not depend on the order of the variants.
    """

    def __init__(self, sites: Sequence[SitePyramid], *, apart: bool) -> None:
        self.sites = sites
        self.apart = apart
        self.compared: list[Tensor] = []
        self.groups: list[Group] = []

    def __call__(self, variants: Sequence[Any]) -> list[Group]:
        """The groups for the variants' arguments, compared once for each set of conditions."""
        conditions = [[tensor for tensor in tensors_of(each) if tensor.ndim != 4] for each in variants]
        own = [tensor for column in zip(*conditions, strict=True) for tensor in column if tensor is not column[0]]
        if not self.groups or [*map(id, own)] != [*map(id, self.compared)]:
            self.compared, self.groups = own, [self._group(rows) for rows in self._rows(conditions)]
        return self.groups

    def _rows(self, conditions: list[list[Tensor]]) -> list[list[int]]:
        rows: list[list[int]] = []
        for row, mine in enumerate(conditions):
            alone = self.apart or self.sites[row].empty
            mates = (
                mates
                for mates in rows
                if not alone and not self.sites[mates[0]].empty and _same(conditions[mates[0]], mine)
            )
            group = next(mates, None)
            if group is None:
                rows.append([row])
            else:
                group.append(row)
        return rows

    def _group(self, rows: list[int]) -> Group:
        rows = sorted(rows, key=lambda row: self.sites[row].mask.numpy().tobytes())
        parts = [self.sites[row] for row in rows]
        return [row + 1 for row in rows], parts[0] if len(parts) == 1 else JointPyramid(parts)


def _same(theirs: list[Tensor], mine: list[Tensor]) -> bool:
    return all(a is b or torch.equal(a, b) for a, b in zip(theirs, mine, strict=True))


def interleave(outputs: list[Any]) -> Any:
    """Outputs of the single pictures, back in the batch's layout."""
    columns = [tensors_of(out) for out in outputs]
    batched = iter([torch.stack(column, 1).flatten(0, 1) for column in zip(*columns, strict=True)])
    return map_tensors(outputs[0], lambda _: next(batched))
