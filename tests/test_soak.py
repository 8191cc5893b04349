"""The soak tells growth from noise, and its rounds run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.soak import Sample, flat, growth, plot, soak
from sparsedit.errors import InputError
from tests.pipelines import tiny_sdxl

MB = 10**6


def samples(*, leak: int = 0, handles: int = 0, count: int = 200) -> list[Sample]:
    """Samples of a process that takes 500 MB while it warms up, and then this much more at every sample."""
    draw = random.Random(0)
    return [
        Sample(3 * n, min(500, 300 + 10 * n) * MB + leak * n + draw.randrange(3 * MB), 20 + handles * n // count, 8)
        for n in range(count)
    ]


def test_a_warm_up_is_no_growth_and_a_leak_is() -> None:
    assert flat(growth(samples()))
    leaking = growth(samples(leak=MB // 4))
    assert not flat(leaking)
    assert leaking["resident"] == pytest.approx(0.25 * 144 / 510, rel=0.2)


def test_one_handle_that_stays_open_is_growth() -> None:
    found = growth(samples(handles=2))
    assert found["handles"] >= 1
    assert not flat(found)


def test_too_few_samples_tell_nothing() -> None:
    with pytest.raises(InputError, match="run more edits"):
        growth(samples(count=11))


def test_rounds_in_every_way_run_and_are_sampled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.soak.VARIANTS", 1)
    taken = soak(tiny_sdxl(), 9, tmp_path)
    assert [sample.edits for sample in taken] == [3, 6, 9]
    assert all(sample.resident > MB and sample.handles > 2 and sample.threads > 0 for sample in taken)
    assert taken[1].handles == taken[2].handles
    plot(taken, {"resident": 0.0}, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000
    assert "9 of 9 edits" in capfd.readouterr().err
