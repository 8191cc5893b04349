"""What one call makes the device do, by torch's profiler: kernels, copies to the processor, waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

SHOWN = 15


@dataclass(frozen=True)
class Event:
    """All runs of one kernel, operator or driver call: where it ran, how often, its own microseconds there."""

    name: str
    on_device: bool
    count: int
    microseconds: float


def profiled(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """A summary of one call, which should have run before."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as found:
        call()
    return summary(_events(found.key_averages(), device))


def _events(averages: Iterable[Any], device: torch.device) -> list[Event]:
    events = []
    for average in averages:
        on_device = average.device_type != DeviceType.CPU
        own = average.self_device_time_total if on_device else average.self_cpu_time_total
        events.append(Event(average.key, on_device or device.type == "cpu", average.count, own))
    return events


def summary(events: Iterable[Event]) -> dict[str, Any]:
    """Kernels (operators, on a CPU) by their time, and the driver's calls that start work, copy or wait.

    The profiler itself waits for the device once at its end.
    """
    events = list(events)
    ran = sorted((event for event in events if event.on_device), key=lambda event: -event.microseconds)
    host = [event for event in events if not event.on_device]
    return {
        "kernels": sum(event.count for event in ran),
        "device_ms": sum(event.microseconds for event in ran) / 1e3,
        "top": [{"name": e.name[:120], "count": e.count, "ms": e.microseconds / 1e3} for e in ran[:SHOWN]],
        "copies_to_host": _counts(event for event in ran if "DtoH" in event.name),
        "launches": _counts(event for event in host if event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraph"))),
        "waits": _counts(event for event in host if "Synchronize" in event.name),
    }


def _counts(events: Iterable[Event]) -> dict[str, int]:
    return {event.name: event.count for event in events}
