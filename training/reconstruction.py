"""How well an autoencoder keeps a picture: PSNR, SSIM, and the fine contrast of stars and window frames.

PSNR and SSIM are those of `sparsedit.metrics.fidelity` (SSIM: Gaussian window of sigma 1.5,
data_range 1), per picture, then averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from sparsedit.metrics.pixels import psnr
from sparsedit.metrics.ssim import ssim_map
from sparsedit.models.silence import silence
from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import HEIGHT, Scene, sample_scene
from training.details import Box, fine, star_box, wall_box
from training.grids import enlarge, grid
from training.models import load_autoencoder
from training.pictures import Picture, to_pictures, to_tensor
from training.settings import FIRST_PROMPT_SEED

_BATCH = 8
_CROPS = 4  # of the sky, and as many of houses
_CROP_SIDE = 96
_ENLARGED = 2


@dataclass(frozen=True)
class Coder:
    """What becomes of images [N, 3, H, W] in [-1, 1] between an encoder and a decoder."""

    name: str
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def load_coders(model: Path, before: Path | None, tiny: Path | None) -> list[Coder]:
    """The autoencoder of a pipeline's folder; that of the folder `before`, of before its decoder's finetune; the
    tiny one's decoder on the autoencoder's latents, which are what the UNet makes, and the tiny one alone."""
    full = _full("VAE", model)
    coders = [full] if before is None else [_full("VAE before the decoder's finetune", before), full]
    if tiny is None:
        return coders
    small = _tiny("tiny autoencoder", tiny)
    return [*coders, replace(full, name="tiny decoder on the VAE's latents", decode=small.decode), small]


def _full(name: str, folder: Path) -> Coder:
    vae: Any = load_autoencoder(folder).eval()
    scale = vae.config.scaling_factor
    return Coder(
        name,
        lambda images: vae.encode(images).latent_dist.mode() * scale,
        lambda latents: vae.decode(latents / scale).sample,
    )


def _tiny(name: str, folder: Path) -> Coder:
    with silence():
        vae: Any = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32).eval()
    scale = vae.config.scaling_factor
    return Coder(
        name,
        lambda images: vae.encode(images).latents * scale,
        lambda latents: vae.decode(latents / scale).sample,
    )


@torch.no_grad()
def reconstruct(coder: Coder, pictures: Picture) -> Picture:
    """Pictures [N, H, W, 3] encoded and decoded again, in batches."""
    parts = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
    return np.concatenate([to_pictures(coder.decode(coder.encode(to_tensor(part)))) for part in parts])


def likeness(made: Picture, true: Picture) -> tuple[float | None, float]:
    """PSNR in dB, None for identical pictures, and SSIM of two pictures [H, W, 3]."""
    a, b = (picture.astype(np.float64) / 255 for picture in (made, true))
    return psnr(a, b), float(ssim_map(a, b).mean())


def scores(made: Picture, scenes: Sequence[Scene], true: Picture) -> dict[str, float | None]:
    """Means over pictures [N, H, W, 3] of scenes; `stars` and `windows` are the fine contrast kept there."""
    pairs = [likeness(one, other) for one, other in zip(made, true, strict=True)]
    return {
        "psnr": float(np.mean([decibels for decibels, _ in pairs if decibels is not None])),
        "ssim": float(np.mean([similarity for _, similarity in pairs])),
        "stars": contrast_kept(made, true, [star_box(scene) for scene in scenes]),
        "windows": contrast_kept(made, true, [wall_box(scene) for scene in scenes]),
    }


def contrast_kept(made: Picture, true: Picture, boxes: Sequence[Box | None]) -> float | None:
    """The share of the true pictures' fine contrast that the made ones have in the same place, over all boxes.

    Least squares: m ~ share * t, where m and t are the pictures less themselves blurred. 1 is as sharp, 0 is
    smoothed away; noise does not raise it. None without boxes.
    """
    together = energy = 0.0
    for one, other, box in zip(made, true, boxes, strict=True):
        if box is not None:
            m, t = (fine(picture)[box] for picture in (one, other))
            together, energy = together + float((m * t).sum()), energy + float((t * t).sum())
    return together / energy if energy else None


def crops(coders: Sequence[Coder]) -> Picture:
    """Crops of the first held-out night skies and houses: a row as rendered, then one for each coder."""
    chosen = [(scene, box) for find in (star_box, wall_box) for scene, box in _first(find)]
    rendered = np.stack([render(scene) for scene, _ in chosen])
    rows = [rendered, *(reconstruct(coder, rendered) for coder in coders)]
    squares = [_square(box, scene.width) for scene, box in chosen]
    cut = [picture[square] for row in rows for picture, square in zip(row, squares, strict=True)]
    return enlarge(grid(cut, len(chosen)), _ENLARGED)


def _first(find: Callable[[Scene], Box | None]) -> list[tuple[Scene, Box]]:
    scenes = (sample_scene(seed) for seed in count(FIRST_PROMPT_SEED))
    return list(islice(((scene, box) for scene in scenes if (box := find(scene))), _CROPS))


def _square(box: Box, width: int) -> Box:
    """A square around the middle of a box, inside the picture."""
    rows, columns = (
        min(max((side.start + side.stop - _CROP_SIDE) // 2, 0), end - _CROP_SIDE)
        for side, end in zip(box, (HEIGHT, width), strict=True)
    )
    return slice(rows, rows + _CROP_SIDE), slice(columns, columns + _CROP_SIDE)
