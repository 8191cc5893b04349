"""Means with bootstrap confidence intervals: what a difference between two runs is worth."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Mean:
    """The mean of `count` values and its 95 % interval; no interval where one value is all there is."""

    count: int
    mean: float
    low: float | None
    high: float | None


def mean_interval(values: Sequence[float]) -> Mean | None:
    """Mean and interval by the bootstrap (BCa, Efron 1987; always the same draws); None of no values."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Mean(1, mean, None, None)
    if min(values) == max(values):  # the bootstrap of equal values is not defined, their interval is
        return Mean(len(values), mean, mean, mean)
    drawn = bootstrap(
        (np.asarray(values),), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    low, high = (float(bound) for bound in drawn.confidence_interval)
    return Mean(len(values), mean, low, high)
