"""The autoencoder's latents of all training scenes, on disk: the UNet never sees a pixel.

python -m training.latents          encodes the sets that UNet and decoder train on
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.arguments import add_workers, command, worker_count
from training.models import load_autoencoder, part_of
from training.parts import make_parts, read_parts
from training.pictures import recipe, render_all, scene_seeds, to_tensor
from training.settings import DEMO, HELD_OUT, PICTURES, SQUARE, WIDE, WORK, PictureSet

_BATCH = 10


@dataclass(frozen=True)
class Latents:
    """Scaled latents fp16 [N, 4, 32, width / 8] and the seeds [N] of their scenes."""

    seeds: npt.NDArray[np.int64]
    values: npt.NDArray[np.float16]
    width: int


def read_latents(pictures: PictureSet, folder: Path = DEMO) -> Latents:
    """The latents of a set by the autoencoder in a pipeline's folder, in memory; InputError when not made yet."""
    seeds, parts = read_parts(folder_of(pictures, folder))
    return Latents(seeds, np.concatenate(parts), pictures.width)


def make_latents(pictures: PictureSet, folder: Path, workers: int) -> None:
    """Render and encode what is missing of a set."""
    make = partial(encode_scenes, folder, pictures.width)
    recipe_ = recipe(pictures, encoder=encoder_hash(folder))
    make_parts(folder_of(pictures, folder), scene_seeds(pictures), recipe_, make, workers)


def folder_of(pictures: PictureSet, folder: Path) -> Path:
    """Where a set's latents lie; another encoder's lie elsewhere."""
    return WORK / "latents" / encoder_hash(folder) / pictures.name


@cache
def encoder_hash(folder: Path) -> str:
    """Twelve digits that change with any weight of the encoder, and with no other; exported, it keeps them."""
    weights = load_file(part_of(folder, "vae") / "diffusion_pytorch_model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode() + weights[name].half().numpy().tobytes())
    return digest.hexdigest()[:12]


def encode_scenes(folder: Path, width: int, seeds: Sequence[int]) -> npt.NDArray[np.float16]:
    """Latents [N, 4, 32, width / 8] of rendered scenes."""
    found = []
    for start in range(0, len(seeds), _BATCH):
        images = to_tensor(render_all(width, seeds[start : start + _BATCH]))
        found.append(encode(folder, images).half().numpy())
    return np.concatenate(found)


@torch.no_grad()
def encode(folder: Path, images: Tensor) -> Tensor:
    """Scaled means [N, 4, H / 8, W / 8] of the latents of images [N, 3, H, W] in [-1, 1]."""
    vae = _autoencoder(folder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = vae.encoder(images)
    mean: Tensor = vae.quant_conv(hidden.float()).chunk(2, 1)[0]
    return mean * vae.config.scaling_factor


@cache
def _autoencoder(folder: Path) -> Any:
    return load_autoencoder(folder).eval().to(memory_format=torch.channels_last)


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.latents", description="Encode all scenes.")
    parser.add_argument("--model", type=Path, default=DEMO, help="pipeline whose autoencoder to use")
    parser.add_argument("--sets", nargs="+", help="names of sets (default: all)")
    add_workers(parser)
    arguments = parser.parse_args()
    sets = {pictures.name: pictures for pictures in (HELD_OUT, SQUARE, WIDE, PICTURES)}
    for name in arguments.sets or sets:
        make_latents(sets[name], arguments.model, worker_count(arguments))


if __name__ == "__main__":
    main()
