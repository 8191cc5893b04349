"""Runs that are compared take turns: dense, thin, dense, thin, ... so that a ratio compares one moment of a machine.

A round is one run of each; a ratio is taken within a round, and what counts is the median of the ratios, never the
ratio of two medians. Warm-up rounds run the same and keep nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from sparsedit.measure.clock import Clock, Now

Run = Callable[[Clock], None]
"""Does its work, with whatever part of it counts inside `clock.stage(name)`."""

OnRound = Callable[[int, int], None]


def interleave(
    runs: Mapping[str, Run],
    device: torch.device,
    *,
    samples: int | Mapping[str, int],
    warmup: int = 1,
    now: Now = time.perf_counter,
    on_round: OnRound = lambda number, total: None,
) -> dict[str, Clock]:
    """Run all `runs` in turn, round after round; their clocks by name, with the samples of every round in order.

    `samples` rounds are kept, after `warmup` rounds that are not. Where it says a number for each run, a run takes part
    in that many rounds, the first ones, so that its n-th sample still belongs to the n-th round. `on_round(n, total)`
    is called before each.
    """
    wanted = dict.fromkeys(runs, samples) if isinstance(samples, int) else dict(samples)
    clocks = {name: Clock(device, now) for name in runs}
    last = max(wanted.values())
    for number in range(-warmup, last):
        on_round(warmup + number + 1, warmup + last)
        for name, run in runs.items():
            if number < wanted[name]:
                run(clocks[name] if number >= 0 else Clock(device, now))
    return clocks
