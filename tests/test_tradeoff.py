"""The plots of consecutive edits and of all ways: what their points are made of, and that they can be drawn."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import first_edits, series_plot, tradeoff, tradeoff_plot
from benchmarks.series import LARGEST, SMALLEST, chains
from benchmarks.series_table import curve, drifts, table
from benchmarks.tradeoff import points
from sparsedit.bench.grid import load_grid
from sparsedit.environment import environment
from sparsedit.errors import InputError
from sparsedit.records import Record, append_records
from sparsedit.runs import RunFolder
from tests.sample_records import failed, fidelity, record

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def made(way: str, name: str = "one", cell: str = "", **changes: Any) -> Record:
    bench = {"cell": cell, "configuration": "0", "way": way, "track": "derived"}
    return record(variant=name, id=f"{way} {name} {cell}", way=way, bench=bench, **{"dense_steps": None} | changes)


def short(count: int) -> dict[str, Any]:
    return {"dense_steps": {"count": count, "total": 14, "fidelity": None, "expected": None}}


def test_a_way_that_remembers_has_a_first_edit_and_an_nth() -> None:
    found = points([made("dense"), made("warm"), made("alongside")])
    by_way = {(point.way, point.first): point for point in found}
    assert set(by_way) == {("warm", True), ("warm", False), ("alongside", True)}
    nth, first = by_way["warm", False], by_way["warm", True]
    assert (nth.speed, nth.macs, nth.psnr, nth.edits) == (8.0, 10.0, 40.0, 1)
    assert (first.speed, first.macs) == pytest.approx((0.8, 10 / 11))


def test_every_number_of_dense_steps_is_a_point_of_its_own() -> None:
    records = [made("cold", name, f"coarse={k}", **short(k)) for k in (3, 5) for name in ("one", "two")]
    records += [made("warm", cell="record_steps=4", **short(4)), made("warm")]
    skip = made("step-skip", cell="coarse=3")
    skip["stages"]["unet"]["sparse"]["calls"] = 4
    found = {(point.way, point.first, point.dense_steps): point.edits for point in points([*records, skip])}
    assert found == {
        ("cold", False, 3): 2,
        ("cold", False, 5): 2,
        ("record-steps", True, 4): 1,
        ("record-steps", False, 4): 1,
        ("step-skip", False, 4): 1,
        ("warm", True, None): 1,
        ("warm", False, None): 1,
    }


def test_every_policy_is_a_point_of_its_own_and_only_of_nth_edits() -> None:
    records = [made("warm", cell=f"policy={name}", policy=name) for name in ("tight", "close")]
    found = {(point.way, point.first, point.policy) for point in points([*records, made("warm", cell="steps=20")])}
    assert found == {
        ("warm, by policy", False, "tight"),
        ("warm, by policy", False, "close"),
        ("warm", True, None),
        ("warm", False, None),
    }


def test_fidelity_is_a_mean_and_speed_a_median() -> None:
    records = [
        made("cold", str(number), fidelity=fidelity(psnr, 50.0), total={"dense_s": 8.0, "record_s": 0.0, "sparse_s": s})
        for number, (psnr, s) in enumerate([(30.0, 1.0), (40.0, 2.0), (50.0, 8.0)])
    ]
    (point,) = points(records)
    assert (point.psnr, point.speed) == (40.0, 4.0)


def test_edits_that_are_large_failed_or_not_compared_do_not_count() -> None:
    alone = made("warm", "alone", total={"dense_s": None, "record_s": 9.0, "sparse_s": 1.0})
    large = made("warm", "large", edit_ratio=0.3)
    broken = failed(variant="broken") | {"bench": made("warm")["bench"], "id": "broken"}
    twice = made("warm")
    found = points([alone, large, broken, twice, twice])
    assert [point.edits for point in found] == [2, 2]  # the one without a dense edit has a fidelity all the same
    assert points([large, broken]) == []


def test_both_pictures_can_be_drawn(tmp_path: Path) -> None:
    some = [made(way, cell="a", **changes) for way, changes in (("warm", {}), ("cold", short(4)), ("crop", {}))]
    some.append(made("warm", cell="policy=close", policy="close"))
    large = [tradeoff_plot.LargeModel("sdxl", first_edits.plotted(FIRST))]
    tradeoff_plot.plot([asdict(point) for point in points(some)], large, tmp_path / "tradeoff.png")
    series_plot.plot(ROWS, tmp_path / "series.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("tradeoff", "series"))


def test_the_picture_is_made_of_the_records_of_benches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, way in (("ways", "warm"), ("cold", "cold")):
        run = RunFolder.create(tmp_path / name, overwrite=False)
        append_records(run.records, [made(way, cell="a", **(short(4) if way == "cold" else {}))])
        run.write_environment(environment())
    assert tradeoff.main([str(tmp_path / "ways"), str(tmp_path / "cold"), "--output", str(tmp_path / "to")]) == 0
    document = json.loads((tmp_path / "to" / "tradeoff.json").read_text())
    assert {point["way"] for point in document["points"]} == {"warm", "cold"}
    assert (tmp_path / "to" / "tradeoff.png").stat().st_size > 10_000
    empty = RunFolder.create(tmp_path / "none", overwrite=False)
    append_records(empty.records, [made("dense")])
    assert tradeoff.main([str(empty.path)]) == InputError.exit_code
    assert "no record of" in capsys.readouterr().err
    append_records(empty.records, [made("warm")])
    assert tradeoff.main([str(empty.path)]) == InputError.exit_code
    assert "has no environment.json" in capsys.readouterr().err


FIRST = {
    "model": "sdxl", "size": [1024, 512], "settings": {"steps_run": 30}, "policy": "close",
    "points": [
        {"way": "dense", "dense_steps": 30, "seconds": [600.0]},
        {"way": "step-skip", "dense_steps": 10, "seconds": [200.0]},
        {"way": "cold", "dense_steps": 4, "seconds": [150.0]},
        {"way": "record-steps, n-th edit", "dense_steps": 7, "seconds": [30.0]},
        {"way": "record-steps, first edit", "dense_steps": 7, "seconds": [200.0]},
    ],
}  # fmt: skip
"""Twenty seconds a step, and none besides."""


def test_a_large_model_has_its_seconds_and_the_demo_model_s_decibels(tmp_path: Path) -> None:
    worth = {way: dict(first_edits.worth_of(FIRST)[way]) for way in ("step-skip", "cold", "record-steps, n-th edit")}
    found = {(each["way"], each["first"], each["dense_steps"]): each for each in first_edits.plotted(FIRST)}
    skipped = {count: each["speed"] for (way, _, count), each in found.items() if way == "step-skip"}
    assert skipped == pytest.approx({count: 30 / count for count in worth["step-skip"]})
    assert (found["cold", False, 4]["speed"], found["cold", False, 4]["psnr"]) == (4.0, worth["cold"][4])
    nth = worth["record-steps, n-th edit"][7]
    assert [found["record-steps", first, 7]["psnr"] for first in (True, False)] == [nth, nth]
    assert [found["record-steps", first, 7]["speed"] for first in (True, False)] == [3.0, 20.0]
    assert first_edits.plotted(FIRST | {"policy": "published"}) == []

    assert tradeoff.large(tmp_path) == []
    unknown = FIRST | {"settings": {"steps_run": 9}}
    (tmp_path / "epyc").mkdir()
    (tmp_path / "epyc" / "first-edits.json").write_text(json.dumps({"curves": [unknown, FIRST]}))
    (model,) = tradeoff.large(tmp_path)
    assert model.title == "sdxl, 1024x512, 30 steps run, close: seconds of epyc, dB of the demo model"
    assert model.points == first_edits.plotted(FIRST)


def test_the_grids_of_the_benches_load() -> None:
    ways = {path.stem: load_grid(path).ways for path in BENCHMARKS.glob("tradeoff-*.yaml")}
    assert {way for each in ways.values() for way in each} == {
        "dense", "alongside", "warm", "cold", "step-skip", "crop",
    }  # fmt: skip


ROWS = [
    {
        "scene": scene,
        "norm": norm,
        "position": position,
        "steps": 14,
        "way": way,
        "inside_psnr": 40.0 + scene - position * (way == "series"),
        "edited_psnr": None,
        "whole_psnr": 42.0,
    }
    for scene in (0, 2)
    for norm in ("original", "updated")
    for position in (1, 2)
    for way in ("fresh", "series")
]


def test_drift_is_what_a_series_has_less_than_edits_on_fresh_recordings() -> None:
    assert curve(ROWS, "updated", "fresh", "inside") == [(1, 41.0), (2, 41.0)]
    assert drifts(ROWS, "updated", "inside") == [(1, 1.0), (2, 2.0)]
    assert drifts(ROWS, "updated", "edited") == []
    assert "| 2 | 2.00 |  | 0.00 |" in table(ROWS)
    assert table(ROWS).endswith("| mean from 2 on | 2.00 |  | 0.00 | 2.00 |  | 0.00 |")


def test_scenes_are_changed_step_by_step_and_always_the_same() -> None:
    ((seed, chain),) = chains(1, 4)
    ((again, same),) = chains(1, 4)
    assert seed == again
    assert [pair.kind for pair in chain] == [pair.kind for pair in same]
    for before, after in pairwise(chain):
        assert after.source == before.target
        assert after.kind != before.kind
        assert np.array_equal(after.source_picture, before.target_picture)
    shares = [(pair.painted != pair.source_picture).any(-1).mean() for pair in chain]
    assert all(SMALLEST < share < LARGEST for share in shares)
