"""From a picture's latents back to the noise they could have come from, by diffusers' DDIM inverse scheduler.

Song et al., 2021 (Denoising Diffusion Implicit Models, section 4.3); without guidance, under the picture's own prompt.
What the approximation loses is made up for by `Trajectory.hold`: the original's run is held to the latents found here.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from sparsedit.errors import SettingsError
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Stages

SPACINGS = ("leading", "trailing")


def check_invertible(stages: Stages) -> None:
    """Raise SettingsError for a scheduler that DDIM's inverse is not the inverse of."""
    scheduler: Any = stages.pipe.scheduler
    if type(scheduler).__name__ != DDIMScheduler.__name__:
        raise SettingsError(
            f"a picture is edited by its prompt with DDIM, the scheduler that can be inverted, not with "
            f"{type(scheduler).__name__}; use --scheduler ddim"
        )
    spacing = scheduler.config.timestep_spacing
    if spacing not in SPACINGS:
        raise SettingsError(f"DDIM is inverted with timesteps spaced {' or '.join(SPACINGS)}, not {spacing!r}")


def unguided(schedule: Schedule) -> Schedule:
    """The schedule of the inversion, one row a picture."""
    return replace(schedule, guidance=0.0)


def invert(stages: Stages, latents: Tensor, prompt: str, schedule: Schedule, on_step: OnStep) -> list[Tensor]:
    """Latents [1, 4, h, w] of a picture -> those before each step of the schedule and after the last, noisiest first.

    One dense call of the UNet for every step. Raises SettingsError as `check_invertible`.
    """
    check_invertible(stages)
    path = [latents]

    def note(_step: int, latents: Tensor) -> Tensor:
        path.append(latents)
        return latents

    steps = unguided(schedule)
    text = stages.text([prompt], "", steps)
    pipe = stages.text_to_image
    forward = pipe.scheduler
    pipe.scheduler = _inverse(forward, schedule.calls)
    try:
        stages.sample(latents, text, replace(steps, strength=1.0), [torch.Generator()], on_step, renew=note)
    finally:
        pipe.scheduler = forward
    return path[::-1]


def _inverse(forward: Any, calls: int) -> Any:
    """The stock inverse of a DDIM scheduler, up to the noise that the last `calls` steps of a schedule begin at."""
    known = inspect.signature(DDIMInverseScheduler.__init__).parameters
    inverse: Any = DDIMInverseScheduler(**{name: forward.config[name] for name in known if name in forward.config})
    stock = inverse.set_timesteps

    @wraps(stock)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        stock(*args, **kwargs)
        inverse.timesteps = inverse.timesteps[:calls]

    inverse.set_timesteps = set_timesteps
    return inverse
