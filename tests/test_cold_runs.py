"""Cold edits and recordings of some steps through settings, jobs and records: what is planned, counted and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coarse import CALIBRATED, missing, raw_of, still_true, table
from sparsedit import calibration
from sparsedit.calibration import AUTO, DenseSteps, choose_steps, plan_dense_steps
from sparsedit.engines.steps import total_steps
from sparsedit.errors import SettingsError
from sparsedit.jobs import Job, plan_jobs
from sparsedit.manifest import load_manifest
from sparsedit.records import macs_ratio
from sparsedit.report.plan import plan_entries, plan_rows
from sparsedit.report.summary import summarise
from sparsedit.settings import resolve
from tests.pipelines import tiny_sdxl
from tests.test_run import HOLE, PAINT, Watch, case, pictures, run

PRESET = {"steps": 10, "strength": 0.8, "guidance": 3.0}
CALLS = 8

__all__ = ["pictures"]  # a fixture


def jobs_of(folder: Path, *variants: dict[str, Any], **defaults: Any) -> list[Job]:
    path = folder / "manifest.yaml"
    path.write_text(json.dumps({"version": 1, "defaults": defaults, "cases": [case("one", *variants)]}))
    return plan_jobs(load_manifest(path), PRESET, {}, {})


def planned(**said: Any) -> DenseSteps | None:
    return plan_dense_steps(resolve(PRESET, said))


def test_a_cold_run_counts_its_dense_and_its_thin_steps(pictures: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pictures, PAINT, HOLE, way="cold", coarse=3)
    watch = Watch()
    records = run(jobs, tiny_sdxl(), tmp_path / "run", watch)
    assert watch.steps == watch.expected == total_steps(jobs)
    for record, outside in zip(records, (None, True), strict=True):
        assert (record["status"], record["way"], record["fidelity"]["outside_equal"]) == ("ok", "cold", outside)
        assert record["dense_steps"] == {"count": 3, "total": CALLS, "fidelity": None, "expected": None}
        unet = record["stages"]["unet"]
        assert [unet[kind]["calls"] for kind in ("dense", "coarse", "sparse")] == [CALLS, 3, 3 + CALLS]
        assert unet["coarse"]["macs"] * CALLS == unet["dense"]["macs"] * 3
        assert unet["coarse"]["macs"] < unet["sparse"]["macs"] < unet["dense"]["macs"]
        assert unet["sparse"]["seconds"][:1] == unet["coarse"]["seconds"]
        assert len(unet["sparse"]["seconds"]) == 2
        assert record["stages"]["decoder"]["sparse"]["macs"] == record["stages"]["decoder"]["dense"]["macs"]
        assert record["total"]["record_s"] == 0
        assert 1 < (macs_ratio(record) or 0) < CALLS / 3
    summary = summarise(records)
    assert all(row.first_speedup == row.speedup for row in summary.rows)
    assert "cold: 3 of 8 steps made densely, then all of them at the edited sites" in summary.notes


def test_a_recording_of_some_steps_is_counted_as_such(pictures: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pictures, PAINT, record_steps=4)
    watch = Watch()
    (record,) = run(jobs, tiny_sdxl(), tmp_path / "run", watch)
    assert watch.steps == watch.expected == total_steps(jobs) == 4 + CALLS + CALLS
    assert (record["way"], record["dense_steps"]["count"]) == ("warm", 4)
    unet = record["stages"]["unet"]
    assert [unet[kind]["calls"] for kind in ("dense", "record", "sparse")] == [CALLS, 4, CALLS]
    assert unet["record"]["macs"] * 2 == unet["dense"]["macs"]
    assert "warm: 4 of 8 steps recorded" in summarise([record]).notes


def test_a_prompt_edits_first_steps_come_on_top_of_those_of_the_table() -> None:
    table, words = planned(way="cold"), planned(way="cold", task="prompt", capture_steps=3)
    assert table is not None
    assert words is not None
    assert (words.count, words.expected) == (table.count + 2, table.expected)
    fixed = planned(coarse=4, task="prompt")
    assert fixed is not None
    assert fixed.count == 4


def test_a_dry_run_shows_the_dense_steps(pictures: Path) -> None:
    entries = plan_entries(jobs_of(pictures, PAINT, coarse=3))
    assert (entries[0]["way"], entries[0]["dense_steps"]) == ("cold", 3)
    assert "cold, 3 dense" in plan_rows(entries)[0]


@pytest.mark.parametrize(
    ("said", "way"),
    [({}, "alongside"), ({"coarse": 3}, "cold"), ({"coarse": "auto"}, "cold"), ({"record_steps": 3}, "warm")],
)
def test_what_is_said_implies_the_way(said: dict[str, Any], way: str) -> None:
    assert resolve(PRESET, said).way == way


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"coarse": 3, "way": "warm"}, "coarse goes with way cold, not with way warm"),
        ({"record_steps": 3, "way": "cold"}, "record_steps goes with way warm"),
        ({"coarse": 3, "fidelity": 40.0}, "give one"),
        ({"coarse": 9}, "only 8 are run"),
        ({"fidelity": 40.0}, "alongside makes every step"),
        ({"way": "cold", "fidelity": 99.0}, "no number of dense steps was measured to reach 99 dB"),
        ({"way": "cold", "refiner": "demo-refiner"}, "with a refiner every step is run"),
        ({"coarse": 1}, "must be a whole number from 2 on or 'auto', not 1"),
        ({"coarse": "many"}, "must be a whole number from 2 on or 'auto', not 'many'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        planned(**said)


def test_a_contradiction_is_found_before_anything_runs(pictures: Path) -> None:
    with pytest.raises(SettingsError, match="case 'one', variant 'paint': 9 dense steps were asked for"):
        jobs_of(pictures, PAINT, coarse=9)


def test_numbers_that_were_given_are_kept() -> None:
    assert planned() is None
    assert planned(way="warm") is None
    assert planned(coarse=5) == DenseSteps(5, CALLS)
    assert planned(record_steps=5) == DenseSteps(5, CALLS)


def test_the_fewest_steps_that_reach_a_fidelity_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {14: {3: 31.0, 4: 36.5, 7: 44.0}, 35: {5: 36.2, 7: 40.0}}
    rows = [
        {"steps": steps, "dense_steps": count, "cold_inside": score, "record_inside": score - 4}
        for steps, table in scores.items()
        for count, score in table.items()
    ]
    monkeypatch.setattr(calibration, "_rows", lambda: rows)
    assert choose_steps(AUTO, 14, "cold") == DenseSteps(4, 14, AUTO, 36.5)
    assert choose_steps(40.0, 14, "cold") == DenseSteps(7, 14, 40.0, 44.0)
    assert choose_steps(40.0, 14, "warm") == DenseSteps(7, 14, 40.0, 40.0)
    assert choose_steps(AUTO, 35, "cold") == DenseSteps(5, 35, AUTO, 36.2)
    assert choose_steps(AUTO, 28, "cold") == DenseSteps(4, 28, AUTO, 36.2), "5 of 35 is as 4 of 28"
    assert choose_steps(31.0, 3, "cold") == DenseSteps(2, 3, 31.0, 31.0), "never fewer than two"
    assert planned(coarse="auto") == planned(way="cold") == choose_steps(AUTO, CALLS, "cold")


def test_the_committed_table_rises_with_the_dense_steps_and_beats_skipping() -> None:
    rows = json.loads(calibration.TABLE.read_text(encoding="utf-8"))["rows"]
    assert rows
    for steps in {row["steps"] for row in rows}:
        own = [row for row in rows if row["steps"] == steps]
        for score in ("cold_inside", "skip_inside"):
            values = [row[score] for row in own]
            assert values == sorted(values)
        assert all(row["cold_inside"] > row["skip_inside"] + 2 for row in own)


def test_the_benchmarks_table_is_the_mean_over_scenes() -> None:
    rows = [
        {"steps": 14, "dense_steps": 4, "way": way, "inside_psnr": start + scene, "whole_psnr": start - scene}
        for scene in (0, 3)
        for way, start in (("skip", 30.0), ("cold", 40.0), ("record", 35.0))
    ]
    assert table(rows) == [
        {"steps": 14, "dense_steps": 4, "scenes": 2}
        | {"skip_inside": 31.5, "skip_whole": 28.5}
        | {"cold_inside": 41.5, "cold_whole": 38.5}
        | {"record_inside": 36.5, "record_whole": 33.5}
    ]


def test_the_benchmark_goes_on_with_rows_of_the_same_weights_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.jsonl"
    assert still_true(raw, "new") == []
    common = {"scene": "a", "steps": 14}
    rows = [common | {"weights": "old", "dense_steps": 3}, common | {"weights": "new", "dense_steps": 4}, common]
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = still_true(raw, "new")
    assert kept == rows[1:2] == [json.loads(line) for line in raw.read_text().splitlines()]
    assert "2 rows were measured with other weights" in capsys.readouterr().err
    assert still_true(raw, "new") == kept
    assert capsys.readouterr().err == ""
    assert missing(kept, "a", 14, [3, 4, 5, 14, 20]) == [3, 5]
    assert missing(kept, "b", 14, [3, 4]) == missing(kept, "a", 35, [3, 4]) == [3, 4]


def test_the_committed_table_is_that_of_the_committed_rows() -> None:
    rows = [json.loads(line) for line in raw_of(CALIBRATED).read_text(encoding="utf-8").splitlines()]
    assert json.loads(calibration.TABLE.read_text(encoding="utf-8"))["rows"] == table(rows)
