"""Several samples of one thing: where they lie, and how they compare with those of another, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of some samples, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread | None:
        """None where there are no samples."""
        return cls(statistics.median(samples), min(samples), max(samples)) if samples else None


def ratios(reference: Sequence[float], samples: Sequence[float]) -> list[float]:
    """How many times as long the reference took, in every round that has both."""
    return [a / b for a, b in zip(reference, samples, strict=False)]
