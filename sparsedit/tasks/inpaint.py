"""Inpainting: a hole in a photo is made anew, the rest of the photo is known at every step.

The original is the same run without a hole: its latents at every step are the noised photo, which is just what
surrounds a hole in the variants, so one recording serves every mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparsedit.control import Control
from sparsedit.noise import generators, resumed
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Stages
from sparsedit.tasks.decoding import decode
from sparsedit.ways import Way


def inpaint(
    stages: Stages,
    way: Way,
    pictures: Tensor,
    holes: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    seed: int,
    on_step: OnStep,
    control: Control | None = None,
) -> tuple[Tensor, Tensor]:
    """Photos [P, 3, H, W] in [-1, 1], holes [P, 1, H, W] (1 = make anew) -> the results and their latents.

    The results are decoded whole; keeping the photo outside the hole is the caller's.
    """
    noise = generators(len(pictures), seed)
    text = stages.text(prompts, negative, schedule)
    with way.around("encoder", stages.vae.encoder):
        latents = stages.encode(pictures, noise)
    masked = None
    if stages.channels > latents.shape[1]:
        with way.around("encoder", stages.vae.encoder):
            masked = stages.encode(pictures * (1 - holes), noise)
    for steps in way.passes(schedule):
        with way.around("unet", stages.unet), way.beside("controlnet", stages.controlnet):
            denoised = stages.denoise_masked(latents, holes, masked, text, steps, resumed(noise), on_step, control)
    return decode(stages, way, denoised), denoised
