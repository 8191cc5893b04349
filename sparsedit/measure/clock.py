"""Seconds per stage, with the device's queue emptied on both sides of every measurement."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Now = Callable[[], float]


class Clock:
    """Collects raw samples by stage name; `now` is replaceable so that tests know the time."""

    def __init__(self, device: torch.device, now: Now = time.perf_counter) -> None:
        self.device = device
        self.now = now
        self.samples: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add one sample for the block; a block that fails adds none."""
        synchronise(self.device)
        start = self.now()
        yield
        synchronise(self.device)
        self.add(name, self.now() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add one sample that was taken elsewhere."""
        self.samples[name].append(seconds)

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
