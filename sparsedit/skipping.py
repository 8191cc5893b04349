"""A schedule of which only some steps are taken, with the scheduler diffusers has.

Inside `skipping` a pipeline's scheduler keeps the noise levels of its full schedule and visits some of them: step
skipping, the plainest way to make a diffusion model faster. Schedulers that draw noise at every step draw that of the
steps they pass over too, so that the short run and the full one are driven by the same noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import wraps
from typing import Any

from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sparsedit.errors import SettingsError
from sparsedit.models.schedulers import SCHEDULERS


def steps_kept(scheduler: Any, count: int, total: int) -> tuple[int, ...] | None:
    """The `count` of `total` steps that are taken, None for all of them.

    Raises SettingsError for a count that is none and, as `check_skippable`, for a scheduler that takes all or nothing.
    """
    if not 2 <= count <= total:
        room = f"choose 2 to {total}" if total > 1 else "there must be two at least"
        raise SettingsError(f"{count} of {total} steps cannot stand for all of them: {room}")
    if count == total:
        return None
    check_skippable(scheduler)
    return spread(count, total)


def spread(count: int, total: int) -> tuple[int, ...]:
    """Which `count` of `total` steps to take: the first, the last, and between them equally far apart."""
    return tuple(round(place * (total - 1) / (count - 1)) for place in range(count))


def check_skippable(scheduler: Any) -> None:
    """Raise SettingsError for a scheduler whose steps cannot be skipped."""
    name = type(scheduler).__name__
    if name not in SKIPPABLE:
        raise SettingsError(
            f"{name} cannot take some of its steps only, as cold, record_steps, pan and rotate need it; "
            f"name another with --scheduler: {', '.join(SCHEDULERS)}"
        )
    if name == "DPMSolverMultistepScheduler" and "sde" in scheduler.config.algorithm_type:
        raise SettingsError(
            f"DPM++ as {scheduler.config.algorithm_type!r} cannot take some of its steps only (cold, record_steps): "
            "its noise is its own; use 'dpmsolver++'"
        )


def can_skip(scheduler: Any) -> bool:
    """Whether some steps of a scheduler can be left out."""
    try:
        check_skippable(scheduler)
    except SettingsError:
        return False
    return True


@contextmanager
def skipping(pipe: Any, first: int, kept: Sequence[int]) -> Iterator[None]:
    """Let `pipe` take, of the steps from `first` on, the `kept` ones alone (counted from there, 0 among them).

    Raises SettingsError as `check_skippable`.
    """
    check_skippable(pipe.scheduler)
    full = pipe.scheduler
    pipe.scheduler = SKIPPABLE[type(full).__name__](full, first, kept).scheduler
    try:
        yield
    finally:
        pipe.scheduler = full


class Skipped:
    """A copy of a scheduler that drops steps whenever its schedule is set; enough where sigmas say how far a step goes.

    `places` are the steps that are kept, counted from the start of the full schedule, and `at` the next one to take.
    """

    def __init__(self, full: Any, first: int, kept: Sequence[int]) -> None:
        self.scheduler = copy.deepcopy(full)
        self.places = [*range(first), *(first + place for place in kept)]
        self.first = self.at = first
        self.sigmas: Tensor | None = None
        self.stock_set_timesteps = self.scheduler.set_timesteps
        self.stock_step = self.scheduler.step
        self.scheduler.set_timesteps = _under_the_name_of(self.stock_set_timesteps, self.set_timesteps)
        self.scheduler.step = _under_the_name_of(self.stock_step, self.step)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self.stock_set_timesteps(*args, **kwargs)
        scheduler = self.scheduler
        self.total = len(scheduler.timesteps)
        self.at = self.first
        scheduler.timesteps = scheduler.timesteps[self.places]
        scheduler.num_inference_steps = len(self.places)
        if hasattr(scheduler, "sigmas"):
            self.sigmas = scheduler.sigmas
            scheduler.sigmas = scheduler.sigmas[[*self.places, self.total]]

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One step as pipelines call it: positional model output, timestep and sample, and a tuple back."""
        place, end = self.places[self.at], [*self.places, self.total][self.at + 1]
        self.at += 1
        return self.leap(place, end, *args, **kwargs)

    def leap(self, place: int, end: int, *args: Any, **kwargs: Any) -> Any:
        """The stock step from step `place` of the full schedule to step `end` of it."""
        return self.stock_step(*args, **kwargs)


class SkippedDDIM(Skipped):
    """DDIM takes it that steps are equally far apart, and reckons the distance from their number."""

    def leap(self, place: int, end: int, *args: Any, **kwargs: Any) -> Any:
        if end - place == 1:
            self.scheduler.num_inference_steps = self.total
            return self.stock_step(*args, **kwargs)
        scheduler = self.scheduler
        now = int(scheduler.timesteps[self.at - 1])
        after = int(scheduler.timesteps[self.at]) if self.at < len(self.places) else -1
        # The stock step goes down by num_train_timesteps // num_inference_steps.
        scheduler.num_inference_steps = Fraction(scheduler.config.num_train_timesteps, now - after)
        return self.stock_step(*args, **kwargs)


class SkippedLCM(Skipped):
    """LCM adds the noise of the level it arrives at; that of the levels it passes is drawn and left."""

    def leap(self, place: int, end: int, output: Tensor, *args: Any, **kwargs: Any) -> Any:
        if end < self.total:
            _draw(output, kwargs["generator"], end - place - 1)
        return self.stock_step(output, *args, **kwargs)


class SkippedAncestral(Skipped):
    """Euler's ancestral step adds the noise that the steps it passes over would have added between them.

    With a steady prediction a step from sigma s to s' leaves s'^2 / s^2 of the noise there is, and adds
    s' sqrt(1 - s'^2 / s^2) of its own (DDPM's posterior: Song et al., 2021, equation 16 with η = 1). Carried on to the
    end of the leap, what such a step adds has the weight sqrt(1 - s'^2 / s^2) / s'.
    """

    def leap(self, place: int, end: int, output: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self.sigmas is not None  # every ancestral schedule has them
        levels = self.sigmas[place : end + 1].double()
        if end - place == 1 or levels[-1] == 0:
            return self.stock_step(output, *args, **kwargs)
        generator = kwargs.pop("generator")
        before = [each.clone_state() for each in generator]
        noises = _draw(output, generator, end - place)
        sample, *rest = self.stock_step(output, *args, generator=before, **kwargs)
        weights = (1 - levels[1:] ** 2 / levels[:-1] ** 2).sqrt() / levels[1:]
        weights = weights / weights.norm()
        combined = sum(weight * noise for weight, noise in zip(weights.tolist(), noises, strict=True))
        added = float(levels[-1] * (1 - levels[-1] ** 2 / levels[0] ** 2).sqrt())
        return sample + added * (combined - noises[0]), *rest


SKIPPABLE: dict[str, type[Skipped]] = {
    "DDIMScheduler": SkippedDDIM,
    "DPMSolverMultistepScheduler": Skipped,
    "EulerAncestralDiscreteScheduler": SkippedAncestral,
    "EulerDiscreteScheduler": Skipped,
    "LCMScheduler": SkippedLCM,
}
"""Schedulers whose steps can be skipped; one that is not here may keep a history or a stride that skipping breaks."""


def _draw(like: Tensor, generator: Any, times: int) -> list[Tensor]:
    """The next noises that a stock step would draw."""
    return [randn_tensor(like.shape, generator, like.device, like.dtype) for _ in range(times)]


def _under_the_name_of(stock: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the signature of `stock`, which pipelines look at to know what to hand over."""

    @wraps(stock)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return called
