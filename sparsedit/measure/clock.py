"""Seconds per stage, with the device's queue emptied on both sides of every measurement."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

Now = Callable[[], float]


class Clock:
    """Collects raw samples by stage name; `now` is replaceable so that tests know the time.

    What a stage takes within another one is its own, and is taken off the outer one's sample.
    """

    def __init__(self, device: torch.device, now: Now = time.perf_counter) -> None:
        self.device = device
        self.now = now
        self.samples: dict[str, list[float]] = defaultdict(list)
        self._within = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add one sample for the block; a block that fails adds none."""
        outer, self._within = self._within, 0.0
        synchronise(self.device)
        start = self.now()
        try:
            yield
            synchronise(self.device)
            seconds = self.now() - start
            self.add(name, seconds - self._within)
            outer += seconds
        finally:
            self._within = outer

    @contextmanager
    def calls(self, name: str, model: nn.Module) -> Iterator[None]:
        """Add one sample for each call of `model` in the block."""
        open_calls: list[AbstractContextManager[None]] = []

        def enter(*_: object) -> None:
            open_calls.append(self.stage(name))
            open_calls[-1].__enter__()

        def leave(*_: object) -> None:
            open_calls.pop().__exit__(None, None, None)

        hooks = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, name: str, seconds: float) -> None:
        """Add one sample that was taken elsewhere."""
        self.samples[name].append(seconds)

    def after(self, earlier: Clock) -> Clock:
        """A clock with the samples of an `earlier` one, and then this one's."""
        both = Clock(self.device, self.now)
        for clock in (earlier, self):
            for name, samples in clock.samples.items():
                both.samples[name] += samples
        return both

    def seconds(self, name: str) -> float:
        """All samples of a stage together."""
        return sum(self.samples.get(name, ()))

    @property
    def total(self) -> float:
        return sum(sum(samples) for samples in self.samples.values())


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
