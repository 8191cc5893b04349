"""SDEdit by two models: a base paints down to some noise, a refiner finishes what is left (SDXL's second stage).

Both work on the same latents, so that the picture is encoded once and decoded once, by the base's VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sparsedit.control import Control
from sparsedit.errors import SettingsError
from sparsedit.noise import generators
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Stages
from sparsedit.tasks.decoding import decode
from sparsedit.ways import Way


def refine(
    stages: Stages,
    refiner: Stages,
    since: float,
    way: Way,
    pictures: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    seed: int,
    on_step: OnStep,
    control: Control | None = None,
) -> tuple[Tensor, Tensor]:
    """Pictures [P, 3, H, W] in [-1, 1] and a prompt for each -> the results and their latents.

    `since` is the share of the way from noise to picture from which `refiner` goes on.
    """
    if list(way.passes(schedule)) != [schedule]:
        raise SettingsError("a refiner goes with the ways alongside and warm, and with every step recorded")
    noise = generators(len(pictures), seed)
    first, second = parts(stages, refiner, since, schedule)
    text, finish = (models.text(prompts, negative, schedule) for models in (stages, refiner))
    with way.around("encoder", stages.vae.encoder):
        latents = stages.encode(pictures, noise)
    with way.around("unet", stages.unet), way.beside("controlnet", stages.controlnet):
        latents = stages.denoise(latents, text, first, noise, on_step, control)
    with way.around("refiner", refiner.unet):
        latents = refiner.denoise(latents, finish, second, noise, on_step)
    return decode(stages, way, latents), latents


def parts(stages: Stages, refiner: Stages, since: float, schedule: Schedule) -> tuple[Schedule, Schedule]:
    """The schedules of base and refiner. Raises SettingsError where one of them is left without a step, or cannot stop
    or begin midway, as SDXL's pipelines alone can."""
    first, second = replace(schedule, until=since), replace(schedule, since=since)
    for who, models, part in (("base", stages, first), ("refiner", refiner, second)):
        if not models.divisible:
            raise SettingsError(f"{type(models.pipe).__name__} cannot be the {who} of two stages; SDXL's pipelines can")
        if models.calls(part) == 0:
            raise SettingsError(
                f"a refiner from {since:g} on leaves the {who} no step of {schedule.steps} at strength "
                f"{schedule.strength:g}; use more steps, or another refine_from (more than {1 - schedule.strength:g})"
            )
    return first, second
