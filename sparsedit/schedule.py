"""What is run of a scheduler's steps: how many it has, which of them, and under how much guidance."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sparsedit.errors import SettingsError
from sparsedit.settings import effective_steps


@dataclass(frozen=True)
class Schedule:
    """How many steps a schedule has, the share of it that is run, and the scale of classifier-free guidance.

    Of noise that falls from 1 to 0, `until` says at which share of the way the last step is made (a base that a
    refiner follows), `since` at which the first one is (the refiner, whose `strength` then says nothing).
    Of the steps that are run only those numbered in `kept` are taken, where it is given.
    """

    steps: int
    strength: float
    guidance: float
    since: float | None = None
    until: float | None = None
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.calls == 0:
            raise SettingsError(
                f"{self.steps} steps at strength {self.strength:g} leave no step to run; "
                f"use a strength of at least {math.ceil(1000 / max(self.steps, 1)) / 1000:g}, or more steps"
            )

    @property
    def calls(self) -> int:
        """Denoising steps that really run."""
        return effective_steps(self.steps, self.strength)

    def calls_of(self, scheduler: Any) -> int:
        """How often the UNet is called: once a step, but for schedulers that repeat timesteps or look at each twice."""
        if self.kept is not None:
            return len(self.kept)
        timesteps, levels = self._of(scheduler), scheduler.config.num_train_timesteps
        if self.since is not None:
            calls = int((timesteps < round(levels * (1 - self.since))).sum())
            return calls + (scheduler.order == 2 and calls % 2 == 0)
        timesteps = self._run_of(scheduler, timesteps)
        if self.until is not None:
            timesteps = timesteps[timesteps >= round(levels * (1 - self.until))]
        return len(timesteps)

    def timesteps_of(self, scheduler: Any) -> list[float]:
        """The timesteps of all steps that are run, `kept` or not."""
        timesteps: list[float] = self._run_of(scheduler, self._of(scheduler)).tolist()
        return timesteps

    def from_noise(self) -> Schedule:
        """The same steps for text-to-image, which knows no strength."""
        first = self.steps - self.calls
        kept = tuple(first + place for place in self.kept or range(self.calls))
        return replace(self, strength=1.0, kept=kept if len(kept) < self.steps else None)

    def _of(self, scheduler: Any) -> Tensor:
        """All timesteps that a scheduler of so many steps has; the one given stays as it is."""
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(self.steps)
        timesteps: Tensor = scheduler.timesteps
        return timesteps

    def _run_of(self, scheduler: Any, timesteps: Tensor) -> Tensor:
        return timesteps[(self.steps - self.calls) * scheduler.order :]
