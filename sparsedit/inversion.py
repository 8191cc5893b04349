"""From a picture's latents back to the noise they could have come from, by diffusers' DDIM inverse scheduler.

Song et al., 2021 (Denoising Diffusion Implicit Models, section 4.3); without guidance, under the picture's own prompt.
What the approximation loses is made up for by `Trajectory.hold`: the original's run is held to the latents found here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from sparsedit.errors import SettingsError
from sparsedit.stages import OnStep, Schedule, Stages

SPACINGS = ("leading", "trailing")


def check_invertible(stages: Stages) -> None:
    """Raise SettingsError for a scheduler that DDIM's inverse is not the inverse of."""
    scheduler = stages.pipe.scheduler
    if type(scheduler) is not DDIMScheduler:
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
    pipe.scheduler = _Inverse.up_to(forward, schedule.calls)
    try:
        stages.sample(latents, text, replace(steps, strength=1.0), [torch.Generator()], on_step, renew=note)
    finally:
        pipe.scheduler = forward
    return path[::-1]


class _Inverse(DDIMInverseScheduler):
    """The stock inverse of a DDIM scheduler's schedule, from the picture up to the noise its last `calls` steps end at."""

    calls: int

    @classmethod
    def up_to(cls, forward: DDIMScheduler, calls: int) -> _Inverse:
        inverse: _Inverse = cls.from_config(forward.config)
        inverse.calls = calls
        return inverse

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps[: self.calls]
