"""The frame around a picture whose sides a model cannot divide: what is added at the model's edge, and taken off again.

A picture keeps its size everywhere else. Its last row and column are repeated to the right and below, which works for
any size, down to one pixel; what is added is part of no mask, no score and no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Frame:
    """A picture of `size`, for a model that takes multiples of `multiple`."""

    size: Size
    multiple: int

    @property
    def padded(self) -> Size:
        """The size the model is given: each side as it is, or the next multiple."""
        height, width = (-(-side // self.multiple) * self.multiple for side in self.size)
        return height, width

    @property
    def fits(self) -> bool:
        """Whether nothing has to be added."""
        return self.padded == self.size

    def pad(self, pictures: Tensor) -> Tensor:
        """Pictures [P, C, H, W] with their last column and row repeated up to the padded size."""
        return pictures if self.fits else F.pad(pictures, self._added, mode="replicate")

    def pad_mask(self, mask: Tensor) -> Tensor:
        """A mask (bool [H, W]) that is false on everything added."""
        return mask if self.fits else F.pad(mask, self._added)

    def crop(self, pictures: Tensor) -> Tensor:
        """What `pad` was given, of [..., H, W] in the padded size."""
        height, width = self.size
        return pictures[..., :height, :width]

    @property
    def _added(self) -> tuple[int, int, int, int]:
        """Columns left and right, rows above and below."""
        (height, width), (padded_height, padded_width) = self.size, self.padded
        return 0, padded_width - width, 0, padded_height - height
