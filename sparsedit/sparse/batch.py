"""Pictures of one batch: the rows of each picked out of a call's arguments, and results laid out as they were.

Pipelines lay a batch out as [original, variant 1, ..., variant k], repeated for every half of guidance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse.rows import map_tensors, tensors_of


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


def interleave(outputs: list[Any]) -> Any:
    """Outputs of the single pictures, back in the batch's layout."""
    columns = [tensors_of(out) for out in outputs]
    batched = iter([torch.stack(column, 1).flatten(0, 1) for column in zip(*columns, strict=True)])
    return map_tensors(outputs[0], lambda _: next(batched))
