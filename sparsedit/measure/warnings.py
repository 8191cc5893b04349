"""Why a measurement should not be trusted: each reason a sentence with its cause and a remedy.

In the manner of hyperfine (Peter, https://github.com/sharkdp/hyperfine), whose rule for outliers this is. Knows samples
and the machine's load, not what was measured.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence

FAR = 14.826
"""Median absolute deviations from which a sample is an outlier: ten standard deviations of a normal distribution."""
NOTABLE = 0.1
"""Share of the median that an outlier differs by at least: steadier samples are not worth a word."""
UNSTEADY = 0.3
"""Share of the median between the smallest and the largest sample from which they are unsteady."""
SHORT = 1e-3
"""Seconds below which what surrounds the work weighs as much as the work."""
FEW = 3
BUSY = 0.5
"""Load per core from which a machine is busy."""

Samples = Mapping[str, Sequence[float]]


def load_average() -> float | None:
    """Programs that ran or waited to run over the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def is_busy(load: float | None, cores: int | None) -> bool:
    """Whether a machine with that load has too much else to do to be measured; not where the load is not known."""
    return load is not None and cores is not None and load >= BUSY * cores


def busy(load: float | None, cores: int | None) -> list[str]:
    """A sentence when the machine is busy; `load` as it was before the measurement."""
    if not is_busy(load, cores):
        return []
    return [
        f"the machine was busy before the first sample (load {load:.1f} on {cores} cores), so seconds are too long and "
        "ratios unsteady: stop what else is running, wait a minute and measure again"
    ]


def doubts(samples: Samples, *, warmup: int) -> list[str]:
    """What is wrong with samples, by the names of what was run; `warmup` says how many rounds came before them."""
    return [
        sentence for find in (_few, _slow_first, _outliers, _unsteady, _short) for sentence in find(samples, warmup)
    ]


def _few(samples: Samples, warmup: int) -> Iterator[str]:
    fewest = min((len(taken) for taken in samples.values()), default=FEW)
    if fewest < FEW:
        said = "1 sample says" if fewest == 1 else f"{fewest} samples say"
        yield f"{said} nothing about how far they vary: take more (--samples 5)"


def _slow_first(samples: Samples, warmup: int) -> Iterator[str]:
    slow = {name: times for name, taken in samples.items() if (times := _first_times(taken)) is not None}
    if slow:
        worst = max(slow.values())
        yield (
            f"the first sample of {_names(slow)} took up to {worst:.1f} times the median: caches were filled or the "
            f"processor changed its frequency, so warm up longer (--warmup {warmup + 2})"
        )


def _outliers(samples: Samples, warmup: int) -> Iterator[str]:
    found = {name: count for name, taken in samples.items() if (count := sum(_far(taken)[1:]))}
    if found:
        count, total = sum(found.values()), sum(len(samples[name]) for name in found)
        yield (
            f"far from the median: {count} of {total} samples of {_names(found)}; something else ran in between, so "
            f"stop it, or take more samples (--samples {2 * max(len(samples[name]) for name in found)})"
        )


def _unsteady(samples: Samples, warmup: int) -> Iterator[str]:
    def width(taken: Sequence[float]) -> float:
        return (max(taken) - min(taken)) / statistics.median(taken) if len(taken) >= FEW and not any(_far(taken)) else 0

    found = {name: share for name, taken in samples.items() if (share := width(taken)) > UNSTEADY}
    if found:
        yield (
            f"the samples of {_names(found)} differ by up to {max(found.values()):.0%} of their median: the machine is "
            "shared or changes its frequency, so trust the ratios, which compare single rounds, before the seconds"
        )


def _short(samples: Samples, warmup: int) -> Iterator[str]:
    found = {name: median for name, taken in samples.items() if taken and (median := statistics.median(taken)) < SHORT}
    if found:
        yield (
            f"{_names(found)} takes {min(found.values()) * 1e6:.0f} µs, of which Python and the clock are a good part: "
            "take a larger picture (--size) or a larger edit"
        )


def _first_times(samples: Sequence[float]) -> float | None:
    """How many times the median the first sample took, where that is an outlier."""
    return samples[0] / statistics.median(samples) if _far(samples)[:1] == [True] else None


def _far(samples: Sequence[float]) -> list[bool]:
    """Which samples are outliers: far from the median in median absolute deviations (Iglewicz and Hoaglin, 1993)."""
    if len(samples) < FEW:
        return [False] * len(samples)
    median = statistics.median(samples)
    distances = [abs(sample - median) for sample in samples]
    limit = max(FAR * statistics.median(distances), NOTABLE * median)
    return [distance > limit for distance in distances]


def _names(found: Mapping[str, object], shown: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(found)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
