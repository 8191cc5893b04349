"""How close a sparse edit comes to the dense one: protocol `sparse-vs-dense`.

Scores are taken over the pixels of a region: MSE and PSNR directly, SSIM and LPIPS as means of their maps, which are
computed on the whole pictures; LPIPS of the whole picture is LPIPS itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from sparsedit.images import to_tensor
from sparsedit.metrics.perceptual import MIN_SIDE, Lpips
from sparsedit.metrics.pixels import SSIM_WINDOW, Mask, Pixels, psnr_of, ssim_map, unit


def fidelity(
    sparse: Image.Image, dense: Image.Image, regions: dict[str, Mask], lpips: Lpips | None = None
) -> dict[str, dict[str, Any]]:
    """Scores of `sparse` against `dense` inside each named region (a mask [H, W]) and over the whole picture.

    What cannot be scored is None: everything of an empty region, LPIPS without its network.
    """
    a, b = unit(sparse), unit(dense)
    shape = a.shape[:2]
    squares = (a - b) ** 2
    similarity = None
    if min(shape) >= SSIM_WINDOW:
        similarity = ssim_map(a, b) if squares.any() else np.ones(shape)
    distance = whole_distance = None
    if lpips is not None and min(shape) >= MIN_SIDE:
        tensors = to_tensor(sparse), to_tensor(dense)
        distance, [whole_distance] = lpips.map(*tensors)[0].numpy(), lpips(*tensors)
    scores = {
        name: _scores(squares[mask], _mean(similarity, mask), _mean(distance, mask)) for name, mask in regions.items()
    }
    everywhere = np.ones(shape, dtype=bool)
    scores["whole"] = _scores(squares, _mean(similarity, everywhere), whole_distance)
    return scores


def _scores(squares: Pixels, similarity: float | None, distance: float | None) -> dict[str, Any]:
    """Of a region, from the squared differences of its pixels."""
    error = float(squares.mean()) if squares.size else None
    return {
        "psnr": psnr_of(error),
        "ssim": similarity,
        "lpips": distance,
        "mse": error,
        "identical": not squares.any(),
    }


def _mean(values: Pixels | None, mask: Mask) -> float | None:
    return float(values[mask].mean()) if values is not None and mask.any() else None
