"""SDEdit (Meng et al., 2021): strokes on a picture become part of it by noising and denoising the whole.

Of every picture in the batch the whole schedule runs; what of it is computed is the way's matter.
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


def sdedit(
    stages: Stages,
    way: Way,
    pictures: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    seed: int,
    on_step: OnStep,
    control: Control | None = None,
) -> tuple[Tensor, Tensor]:
    """Pictures [P, 3, H, W] in [-1, 1] and a prompt for each -> the results and their latents."""
    noise = generators(len(pictures), seed)
    text = stages.text(prompts, negative, schedule)
    with way.around("encoder", stages.vae.encoder):
        latents = stages.encode(pictures, noise)
    for steps in way.passes(schedule):
        with way.around("unet", stages.unet), way.beside("controlnet", stages.controlnet):
            denoised = stages.denoise(latents, text, steps, resumed(noise), on_step, control)
    return decode(stages, way, denoised), denoised
