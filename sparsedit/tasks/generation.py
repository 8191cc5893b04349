"""Text-to-image from given latents: the page under every task that starts from noise or from a known run's latents.

Of every picture in the batch the whole schedule runs; what of it is computed is the way's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from sparsedit.control import Control
from sparsedit.noise import draw, generators, resumed
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Renew, Stages
from sparsedit.tasks.decoding import decode
from sparsedit.ways import Way


def generate(
    stages: Stages,
    way: Way,
    latents: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    noise: list[torch.Generator],
    on_step: OnStep,
    control: Control | None = None,
    renew: Renew | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents [P, 4, h, w], as noisy as the first step takes them, and a prompt for each -> pictures and latents."""
    text = stages.text(prompts, negative, schedule)
    for steps in way.passes(schedule):
        with way.around("unet", stages.unet), way.beside("controlnet", stages.controlnet):
            denoised = stages.sample(latents, text, steps, resumed(noise), on_step, control, renew)
    return decode(stages, way, denoised), denoised


def first_noise(
    stages: Stages, count: int, size: tuple[int, int], schedule: Schedule, seed: int
) -> tuple[Tensor, list[torch.Generator]]:
    """The noise [count, 4, h, w] that pictures of `size` (height, width in pixels) are made from, and what is drawn
    from afterwards; all pictures have the same, as stock text-to-image draws it."""
    noise = generators(count, seed)
    shape = (count, stages.vae.config.latent_channels, *stages.latent_size(*size))
    like = torch.empty(shape, device=stages.device, dtype=cast(torch.dtype, stages.unet.dtype))
    return draw(like, noise) * stages.noise_scale(schedule), noise
