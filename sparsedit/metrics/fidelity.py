"""How close a sparse edit comes to the dense one: protocol `sparse-vs-dense`.

Pictures are uint8 RGB scaled to [0, 1]. PSNR = 10 log10(1 / MSE) over the pixels in question; SSIM (Wang et al.,
2004; Gaussian window of sigma 1.5 as in the paper, scikit-image) is averaged over them, its map being computed on
the whole picture. A score that does not exist (PSNR of identical pixels, a mask without pixels) is None.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

PROTOCOL = "sparse-vs-dense"


def fidelity(sparse: Image.Image, dense: Image.Image, regions: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    """Scores of `sparse` against `dense` inside each named region (a mask [H, W]) and over the whole picture."""
    a, b = _unit(sparse), _unit(dense)
    similarity = ssim_map(a, b)
    whole = {"whole": np.ones(similarity.shape, dtype=bool)}
    return {name: _scores(a, b, similarity, mask) for name, mask in (regions | whole).items()}


def psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """PSNR in dB of values in [0, 1]; None when they are identical or there are none."""
    mse = float(np.mean((a - b) ** 2)) if a.size else 0.0
    return -10 * math.log10(mse) if mse > 0 else None


def ssim_map(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """SSIM [H, W] of two pictures [H, W, 3] in [0, 1], averaged over the channels."""
    _, full = structural_similarity(
        a, b, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    result: NDArray[np.float64] = full.mean(axis=2)
    return result


def _scores(
    a: NDArray[np.float64], b: NDArray[np.float64], similarity: NDArray[np.float64], mask: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "psnr": psnr(a[mask], b[mask]),
        "ssim": float(similarity[mask].mean()) if mask.any() else None,
        "lpips": None,
        "identical": bool(np.array_equal(a[mask], b[mask])),
    }


def _unit(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64) / 255
