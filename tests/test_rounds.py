"""Interleaved rounds, their statistics, and the sentences about samples that cannot be trusted."""

from __future__ import annotations

import mmap

import pytest
import torch

from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import forget_peak, peak_bytes, peak_during
from sparsedit.measure.rounds import Run, interleave
from sparsedit.measure.spread import Spread, ratios
from sparsedit.measure.warnings import busy, doubts

CPU = torch.device("cpu")
STEADY = [1.0, 1.01, 0.99, 1.0, 1.02]


class Time:
    """A clock that stands still until something takes time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, *seconds: float) -> Run:
        """A run that takes these seconds, one after the other, and notes its turn; what surrounds it takes time too."""
        left = list(seconds)

        def run(clock: Clock) -> None:
            self.log.append(name)
            self.now += 50
            with clock.stage("call"):
                self.now += left.pop(0)

        return run


def test_runs_take_turns_and_warm_up_rounds_are_not_kept() -> None:
    time = Time()
    runs = {"dense": time.run("dense", 9, 4, 6), "thin": time.run("thin", 8, 2, 1)}
    clocks = interleave(runs, CPU, samples=2, warmup=1, now=time)
    assert time.log == ["dense", "thin"] * 3
    assert clocks["dense"].samples["call"] == [4, 6]
    assert clocks["thin"].samples["call"] == [2, 1]


def test_a_run_with_fewer_samples_takes_part_in_the_first_rounds() -> None:
    time = Time()
    runs = {"dense": time.run("dense", 4, 5, 6), "slow": time.run("slow", 3)}
    clocks = interleave(runs, CPU, samples={"dense": 3, "slow": 1}, warmup=0, now=time)
    assert time.log == ["dense", "slow", "dense", "dense"]
    assert ratios(clocks["dense"].samples["call"], clocks["slow"].samples["call"]) == [4 / 3]


def test_rounds_are_told_of_before_they_run() -> None:
    time, told = Time(), []
    interleave(
        {"dense": time.run("dense", 1, 1, 1)}, CPU, samples=2, warmup=1, now=time, on_round=lambda *n: told.append(n)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_run_that_fails_leaves_no_sample() -> None:
    clock = Clock(CPU, Time())
    with pytest.raises(RuntimeError), clock.stage("call"):
        raise RuntimeError
    assert not clock.samples


def test_speed_up_is_the_median_of_the_ratios_of_single_rounds() -> None:
    # A machine that slows down by half over the run: the ratio of the medians would be 2 as well as 4 or 1.
    dense, thin = [8.0, 16.0, 4.0], [2.0, 8.0, 4.0]
    assert ratios(dense, thin) == [4, 2, 1]
    assert Spread.of(ratios(dense, thin)) == Spread(median=2, low=1, high=4)
    assert Spread.of([]) is None


def test_steady_samples_raise_no_doubt() -> None:
    assert doubts({"the dense call": STEADY, "the sparse call": [sample / 10 for sample in STEADY]}, warmup=1) == []


@pytest.mark.parametrize(
    ("samples", "warmup", "sentence"),
    [
        ([1.0], 1, "1 sample says nothing about how far they vary: take more (--samples 5)"),
        (
            [2.0, *STEADY],
            3,
            "the first sample of the call took up to 2.0 times the median: caches were filled or the processor changed "
            "its frequency, so warm up longer (--warmup 5)",
        ),
        (
            [*STEADY, 3.0],
            1,
            "far from the median: 1 of 6 samples of the call; something else ran in between, so stop it, or take more "
            "samples (--samples 12)",
        ),
        (
            [1.0, 1.2, 1.4, 1.1, 1.3],
            1,
            "the samples of the call differ by up to 33% of their median: the machine is shared or changes its "
            "frequency, so trust the ratios, which compare single rounds, before the seconds",
        ),
        (
            [2e-4, 2e-4, 2e-4],
            1,
            "the call takes 200 µs, of which Python and the clock are a good part: take a larger picture (--size) or a "
            "larger edit",
        ),
    ],
    ids=["few", "slow-first", "outlier", "unsteady", "short"],
)
def test_each_doubt_names_cause_and_remedy(samples: list[float], warmup: int, sentence: str) -> None:
    assert doubts({"the call": samples}, warmup=warmup) == [sentence]


def test_one_sentence_for_all_that_share_a_doubt() -> None:
    samples = {f"call {number}": [*STEADY, 3.0] for number in range(5)}
    [sentence] = doubts(samples, warmup=1)
    assert sentence.startswith("far from the median: 5 of 30 samples of call 0, call 1, call 2 and 2 more;")


def test_steady_samples_with_a_hair_between_them_have_no_outliers() -> None:
    assert doubts({"the call": [1.0, 1.0, 1.0, 1.001]}, warmup=1) == []


@pytest.mark.parametrize(
    ("load", "cores", "is_busy"), [(0.9, 2, False), (1.1, 2, True), (None, 2, False), (9, 64, False)]
)
def test_a_busy_machine_is_said(load: float | None, cores: int, is_busy: bool) -> None:
    assert len(busy(load, cores)) == is_busy
    if is_busy:
        assert "load 1.1 on 2 cores" in busy(load, cores)[0]


@pytest.mark.skipif(not forget_peak(CPU), reason="this system keeps the peak of the whole process")
def test_the_peak_is_that_of_the_run_alone() -> None:
    def hold(megabytes: int) -> None:
        # Not by the allocator, which may keep what is freed.
        with mmap.mmap(-1, megabytes * 1_000_000) as memory:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1

    before = peak_during(lambda: None, CPU)
    large, small = peak_during(lambda: hold(200), CPU), peak_during(lambda: hold(1), CPU)
    assert before is not None
    assert large is not None
    assert small is not None
    assert large - before > 180_000_000
    assert small < large - 100_000_000
    assert peak_bytes(CPU) < large
