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
from sparsedit.metrics.pixels import Mask, Pixels, psnr_of, unit
from sparsedit.metrics.ssim import WINDOW, ssim_map


def fidelity(
    sparse: Image.Image,
    dense: Image.Image,
    regions: dict[str, Mask],
    lpips: Lpips | None = None,
    *,
    whole: bool = True,
) -> dict[str, dict[str, Any]]:
    """Scores of `sparse` against `dense` inside each named region (a mask [H, W]) and, with `whole`, over the whole
    picture; without it, small regions cost SSIM little.

    What cannot be scored is None: everything of an empty region, LPIPS without its network.
    """
    a, b = unit(sparse), unit(dense)
    shape = a.shape[:2]
    squares = (a - b) ** 2
    similarity = None
    if min(shape) >= WINDOW:
        similarity = np.ones(shape)
        if squares.any():
            box = (slice(None), slice(None)) if whole else _around(list(regions.values()))
            similarity[box] = ssim_map(a[box], b[box])
    distance = whole_distance = None
    if lpips is not None and min(shape) >= MIN_SIDE:
        tensors = to_tensor(sparse), to_tensor(dense)
        distance, [whole_distance] = lpips.map(*tensors)[0].numpy(), lpips(*tensors)
    scores = {
        name: _scores(squares[mask], _mean(similarity, mask), _mean(distance, mask)) for name, mask in regions.items()
    }
    if whole:
        everywhere = np.ones(shape, dtype=bool)
        scores["whole"] = _scores(squares, _mean(similarity, everywhere), whole_distance)
    return scores


def _around(regions: list[Mask]) -> tuple[slice, slice]:
    """Rows and columns of all regions and of what SSIM's window sees around them, never less than the window."""
    edited = np.logical_or.reduce(regions)
    if not edited.any():
        return slice(0, WINDOW), slice(0, WINDOW)
    found = (np.flatnonzero(edited.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(int(at[0]) - WINDOW, 0), int(at[-1]) + 1 + WINDOW) for at in found)
    return rows, columns


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
