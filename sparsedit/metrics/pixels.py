"""Scores computed pixel by pixel: MSE, PSNR and seams of arrays with values in [0, 1].

A score that does not exist is None: PSNR of equal pixels, anything of none.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]


def unit(image: Image.Image) -> Pixels:
    """The picture as [H, W, 3] in [0, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def mse(a: Pixels, b: Pixels) -> float | None:
    """Mean squared error; None when there are no pixels."""
    return float(np.mean((a - b) ** 2)) if a.size else None


def psnr(a: Pixels, b: Pixels) -> float | None:
    """10 log10(1 / MSE) in dB; None when the pixels are equal or there are none."""
    return psnr_of(mse(a, b))


def psnr_of(error: float | None) -> float | None:
    """PSNR in dB of a mean squared error."""
    return -10 * math.log10(error) if error else None


def border_jump(picture: Pixels, mask: Mask) -> float | None:
    """How visible the mask's border is in a picture [H, W, 3]: the seam score.

    For every pair of neighbours that the border separates: their absolute difference, averaged over the channels,
    less the mean of the differences one pixel further in and out in the same direction. Averaged over the pairs, so a
    slope scores 0 and a step of height h along the border scores h. None where there is no border.
    """
    jumps = np.concatenate([_jumps(picture, mask), _jumps(picture.transpose(1, 0, 2), mask.T)])
    return float(jumps.mean()) if jumps.size else None


def _jumps(picture: Pixels, mask: Mask) -> Pixels:
    """The excess differences down the columns, one per pair that has neighbours on both sides."""
    steps = np.abs(np.diff(picture, axis=0)).mean(axis=2)
    crossing = mask[1:] != mask[:-1]
    excess = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    result: Pixels = excess[crossing[1:-1]]
    return result
