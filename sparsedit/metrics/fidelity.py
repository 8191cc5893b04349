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
from sparsedit.metrics.pixels import SSIM_WINDOW, Mask, mse, psnr, ssim_map, unit


def fidelity(
    sparse: Image.Image, dense: Image.Image, regions: dict[str, Mask], lpips: Lpips | None = None
) -> dict[str, dict[str, Any]]:
    """Scores of `sparse` against `dense` inside each named region (a mask [H, W]) and over the whole picture.

    What cannot be scored is None: everything of an empty region, LPIPS without its network.
    """
    a, b = unit(sparse), unit(dense)
    shape = a.shape[:2]
    similarity = ssim_map(a, b) if min(shape) >= SSIM_WINDOW else None
    distance = whole_distance = None
    if lpips is not None and min(shape) >= MIN_SIDE:
        tensors = to_tensor(sparse), to_tensor(dense)
        distance, [whole_distance] = lpips.map(*tensors)[0].numpy(), lpips(*tensors)
    scores = {}
    for name, mask in (regions | {"whole": np.ones(shape, dtype=bool)}).items():
        scores[name] = {
            "psnr": psnr(a[mask], b[mask]),
            "ssim": _mean(similarity, mask),
            "lpips": _mean(distance, mask),
            "mse": mse(a[mask], b[mask]),
            "identical": bool(np.array_equal(a[mask], b[mask])),
        }
    scores["whole"]["lpips"] = whole_distance
    return scores


def _mean(values: np.ndarray | None, mask: Mask) -> float | None:
    return float(values[mask].mean()) if values is not None and mask.any() else None
