"""Schedulers by the names their users know, made from the noise levels of the model's own (`--scheduler`)."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
)

from sparsedit.errors import SettingsError, did_you_mean

SCHEDULERS: dict[str, Any] = {
    "euler": EulerDiscreteScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "dpm++-2m": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "lcm": LCMScheduler,
}


def named_scheduler(name: str, own: Any) -> SchedulerMixin:
    """The scheduler called `name` in the place of a model's `own`. Raises SettingsError for an unknown name."""
    if name not in SCHEDULERS:
        raise SettingsError(f"unknown scheduler {name!r}: use {', '.join(SCHEDULERS)}{did_you_mean(name, SCHEDULERS)}")
    # DDIM and LCM would clip a model's latents to [-1, 1] where its configuration does not say otherwise.
    clipped = {} if "clip_sample" in own.config else {"clip_sample": False}
    scheduler: SchedulerMixin = SCHEDULERS[name].from_config(own.config, **clipped)
    return scheduler
