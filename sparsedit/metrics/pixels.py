"""Scores computed from pixels alone: MSE, PSNR and SSIM of arrays with values in [0, 1].

A score that does not exist is None: PSNR of equal pixels, anything of none, SSIM of a picture smaller than its window.
SSIM is scikit-image's to the last bit, channel by channel in memory and on as many threads as torch has: a bench takes
it two or three times for every edit.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in pixels."""

# Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004).
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_RADIUS = SSIM_WINDOW // 2


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


def ssim(a: Pixels, b: Pixels) -> float | None:
    """Mean SSIM of pictures [H, W, 3] over the places where the whole window fits; None when it fits nowhere."""
    if min(a.shape[:2]) < SSIM_WINDOW:
        return None
    whole = (slice(_RADIUS, -_RADIUS),) * 2
    return float(np.mean([channel[whole].mean() for channel in _similarity(a, b)]))


def ssim_map(a: Pixels, b: Pixels) -> Pixels:
    """SSIM [H, W] of two pictures [H, W, 3], averaged over the channels; at the borders the window is mirrored."""
    result: Pixels = np.stack(_similarity(a, b), axis=2).mean(axis=2)
    return result


def _similarity(a: Pixels, b: Pixels) -> list[Pixels]:
    """SSIM [H, W] of each channel."""
    pairs = [(np.ascontiguousarray(a[..., c]), np.ascontiguousarray(b[..., c])) for c in range(a.shape[2])]
    products = [product for x, y in pairs for product in (x, y, x * x, y * y, x * y)]
    threads = torch.get_num_threads()
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            means = list(pool.map(_blurred, products))
    else:
        means = [_blurred(product) for product in products]
    return [_channel_similarity(*means[first : first + 5]) for first in range(0, len(means), 5)]


def _blurred(values: Pixels) -> Pixels:
    """Means of [H, W] under the window."""
    result: Pixels = gaussian_filter(values, _SIGMA, radius=_RADIUS)
    return result


def _channel_similarity(x: Pixels, y: Pixels, xx: Pixels, yy: Pixels, xy: Pixels) -> Pixels:
    """SSIM of one channel from the means, under the window, of both pictures and of their products."""
    variances = (xx - x * x) + (yy - y * y)
    likeness: Pixels = (2 * x * y + _C1) * (2 * (xy - x * y) + _C2)
    return likeness / ((x**2 + y**2 + _C1) * (variances + _C2))


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
