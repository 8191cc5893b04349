"""The paths that the demo model's own sampler takes: what its few-step version learns from.

    python -m training.trajectories

A path leads from noise to latents by the steps of the model's scheduler, with guidance. All it needs is a caption,
so no picture is rendered or encoded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsedit.suites.scenes.scene import HEIGHT, sample_scene
from training.arguments import add_device, add_workers, command, crew_size, device_of
from training.captions import Tokens, tokenize, training_caption
from training.diffusion import Diffusion
from training.fused import fuse
from training.models import denoiser_hash, load_denoiser, load_tokenizers, new_scheduler
from training.parts import make_parts, read_parts
from training.pictures import LATENT_PIXELS, scene_seeds
from training.settings import (
    DEMO,
    PATHS,
    PATHS_HELD_OUT,
    SHARES,
    WORK,
    CaptionSettings,
    DistillationSettings,
    PathSettings,
    PictureSet,
)

_BATCH = 16
_PART = 50
_SIDE = HEIGHT // LATENT_PIXELS


@dataclass(frozen=True)
class Paths:
    """Latents fp16 [N, steps + 1, 4, h, w] as the UNet takes them before every step, and at the end; and captions."""

    values: npt.NDArray[np.float16]
    tokens: Tokens


def path_levels(steps: int) -> Tensor:
    """The noise levels [steps] at which a path's steps begin."""
    scheduler: Any = new_scheduler()
    scheduler.set_timesteps(steps)
    levels: Tensor = scheduler.timesteps.long()
    return levels


@torch.no_grad()
def sample_paths(teacher: Diffusion, noise: Tensor, tokens: Tokens, settings: PathSettings) -> Tensor:
    """Paths [N, steps + 1, 4, h, w] from noise [N, 4, h, w]."""
    scheduler: Any = new_scheduler()
    scheduler.set_timesteps(settings.steps)
    count = len(noise)
    twice = Tokens(tokens.first.repeat(2, 1), tokens.second.repeat(2, 1))
    conditions = teacher.conditions(twice, torch.arange(2).repeat_interleave(count).float())
    latents, passed = noise.to(teacher.device) * scheduler.init_noise_sigma, []
    for level in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, level)
        passed.append(noisy)
        both = teacher.predict(noisy.repeat(2, 1, 1, 1), level.long().expand(2 * count), conditions)
        without, given = both.chunk(2)
        predicted = without + settings.guidance * (given - without)
        latents = scheduler.step(predicted, level, latents).prev_sample
    return torch.stack([*passed, latents], 1).cpu()


@cache
def load_teacher(base: Path, device: torch.device) -> Diffusion:
    """The UNet and text encoders of a pipeline's folder."""
    models = load_denoiser(base)
    for model in models.parts().values():
        model.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        fuse(models.unet)
    return Diffusion(models, snr_ceiling=1, device=device)


def read_paths(pictures: PictureSet, base: Path, settings: PathSettings) -> Paths:
    """The paths of a set by the model in a pipeline's folder; InputError when they have not been made yet."""
    seeds, parts = read_parts(folder_of(pictures, base, settings), _PART)
    return Paths(np.concatenate(parts), _tokens(seeds, base))


def make_paths(pictures: PictureSet, base: Path, settings: PathSettings, device: torch.device, workers: int) -> None:
    """Sample what is missing of a set."""
    recipe = {"set": asdict(pictures), "shares": asdict(SHARES)}
    make = partial(_sample_seeds, base, settings, device)
    make_parts(folder_of(pictures, base, settings), scene_seeds(pictures), recipe, make, workers, _PART)


def folder_of(pictures: PictureSet, base: Path, settings: PathSettings) -> Path:
    """Where a set's paths lie; those of another model or by other settings lie elsewhere."""
    made_by = f"{denoiser_hash(base)}-{settings.steps}-{settings.guidance:g}"
    return WORK / "paths" / made_by / pictures.name


def _sample_seeds(
    base: Path, settings: PathSettings, device: torch.device, seeds: Sequence[int]
) -> npt.NDArray[np.float16]:
    """Paths of captions and noises that depend on their seeds alone."""
    teacher, made = load_teacher(base, device), []
    for start in range(0, len(seeds), _BATCH):
        some = seeds[start : start + _BATCH]
        noise = [torch.randn(4, _SIDE, _SIDE, generator=torch.Generator().manual_seed(seed)) for seed in some]
        made.append(sample_paths(teacher, torch.stack(noise), _tokens(some, base), settings).half().numpy())
    return np.concatenate(made)


def _tokens(seeds: Iterable[int], base: Path) -> Tokens:
    """A caption for each seed, worded as in the model's own training."""
    captions = [
        training_caption(sample_scene(int(seed)), np.random.default_rng([seed, 91]), CaptionSettings())
        for seed in seeds
    ]
    return tokenize(captions, load_tokenizers(base))


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.trajectories", description="Sample all paths.")
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline to sample (default: the embedded)")
    add_workers(parser)
    add_device(parser)
    arguments = parser.parse_args()
    device = device_of(arguments)
    for pictures in (PATHS_HELD_OUT, PATHS):
        make_paths(pictures, arguments.base, DistillationSettings().paths, device, crew_size(arguments, device))


if __name__ == "__main__":
    main()
