"""Edits made up for measuring: so much of a picture, in one piece or in many. What they show means nothing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedit.plan import Edit

PATTERNS = ("contiguous", "scattered")
DAB = 8
"""Side in pixels of one of the squares that a scattered edit is made of."""


def synthetic_mask(height: int, width: int, ratio: float, pattern: str) -> Tensor:
    """A mask (bool [H, W]) of `ratio` of all pixels, rounded to whole pixels and never empty.

    "contiguous" is a rectangle in the middle with the picture's proportions, its last row shorter where the pixels do
    not fill it; "scattered" is squares of 8 pixels on places of a grid, drawn with a fixed seed: the more of them, the
    more of a larger ratio's places are those of a smaller one's.
    """
    pixels = min(max(round(ratio * height * width), 1), height * width)
    order = _rectangle(height, width, pixels) if pattern == "contiguous" else _scattered(height, width)
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[order[:pixels]] = True
    return mask.view(height, width)


def synthetic_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture [1, 3, H, W] in [-1, 1] of soft blots."""
    generator = torch.Generator().manual_seed(seed)
    blots = torch.rand(1, 3, math.ceil(height / 32) + 1, math.ceil(width / 32) + 1, generator=generator)
    return F.interpolate(blots * 1.6 - 0.8, size=(height, width), mode="bilinear")


def synthetic_edit(original: Tensor, ratio: float, pattern: str) -> Edit:
    """The `original` [1, 3, H, W] with the colours of a synthetic mask turned round, and that mask."""
    mask = synthetic_mask(original.shape[2], original.shape[3], ratio, pattern)
    return Edit(torch.where(mask, -original, original), mask)


def _rectangle(height: int, width: int, pixels: int) -> Tensor:
    """Flat positions of the smallest centred rectangle of about the picture's proportions that holds the pixels."""
    columns = min(math.ceil(math.sqrt(pixels * width / height)), width)
    rows = math.ceil(pixels / columns)
    if rows > height:
        rows, columns = height, math.ceil(pixels / height)
    top, left = (height - rows) // 2, (width - columns) // 2
    y, x = torch.meshgrid(torch.arange(top, top + rows), torch.arange(left, left + columns), indexing="ij")
    return (y * width + x).flatten()


def _scattered(height: int, width: int) -> Tensor:
    """All flat positions, square by square, in a drawn order of the squares."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    across = math.ceil(width / DAB)
    square = (y // DAB * across + x // DAB).flatten()
    drawn = torch.randperm(across * math.ceil(height / DAB), generator=torch.Generator().manual_seed(0))
    return drawn[square].argsort(stable=True)
