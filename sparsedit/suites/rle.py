"""PIE-Bench's run lengths: a mask as `[start, length, start, length, ...]` over its pixels, row after row.

Runs need not be in order and may touch. Those that overlap or leave the picture are faults here; PIE-Bench's own
decoder lets the one pass and cuts the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparsedit.errors import InputError, shown

Mask = npt.NDArray[np.bool_]


def encode(mask: Mask) -> list[int]:
    """The runs of a mask, bool [H, W]: ascending, each as long as can be."""
    flat = np.concatenate([[False], mask.ravel(), [False]])
    starts, ends = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2).T
    runs: list[int] = np.stack([starts, ends - starts], axis=1).ravel().tolist()
    return runs


def decode(runs: Sequence[int], height: int, width: int) -> Mask:
    """The mask, bool [height, width], that the runs describe. Raises InputError when they describe none."""
    if fault := runs_fault(runs, height * width):
        raise InputError(f"The runs are no mask of {width}x{height} pixels: {fault}.")
    flat = np.zeros(height * width, dtype=bool)
    for start, length in _pairs(runs):
        flat[start : start + length] = True
    return flat.reshape(height, width)


def runs_fault(runs: Sequence[int], pixels: int | None = None) -> str:
    """Why the runs are no mask, as the end of a sentence; "" when they are. `pixels` is None before it is known."""
    if len(runs) % 2:
        return f"a start without a length: there are {len(runs)} numbers, an odd count"
    if negative := [number for number in runs if number < 0]:
        return f"{shown(negative[0])} is negative"
    end = 0
    for start, length in sorted(_pairs(runs)):
        if start < end:
            return f"the run of {shown(length)} from {shown(start)} begins before the one ahead of it ends"
        end = start + length
    if pixels is not None and end > pixels:
        return f"they end at pixel {shown(end)} of {pixels}"
    return ""


def _pairs(runs: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(runs[::2], runs[1::2], strict=True))
