"""SDEdit on pixels: the UNet is all there is."""

from __future__ import annotations

from torch import Tensor

from sparsedit.noise import generators, resumed
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Stages, Text
from sparsedit.ways import Way


def sdedit_pixels(
    stages: Stages, way: Way, pictures: Tensor, schedule: Schedule, seed: int, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """Pictures [P, 3, H, W] in [-1, 1] -> the results, twice: what else would be latents are pictures too."""
    noise = generators(len(pictures), seed)
    for steps in way.passes(schedule):
        with way.around("unet", stages.unet):
            made = stages.denoise(pictures, Text({}), steps, resumed(noise), on_step)
    made = made.float().clamp(-1, 1)
    return made, made
