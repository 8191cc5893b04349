"""benchmarks/first_edits.py: what it measures, and what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import coarse, first_edits

OPTIONS = [
    *("--size", "64x64", "--steps", "4", "--samples", "2"),
    *("--coarse", "2", "3", "--skip", "2", "--record-steps", "2"),
]


def test_every_way_is_timed_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["first_edits", *OPTIONS, "--output", str(tmp_path)])
    assert first_edits.main() == 0
    entry = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "first-edits.json").read_text())["curves"] == [entry]
    seconds = {(point["way"], point["dense_steps"]): point["seconds"] for point in entry["points"]}
    assert set(seconds) == {
        ("dense", 4), ("step-skip", 2), ("cold", 2), ("cold", 3),
        ("record-steps, first edit", 2), ("record-steps, n-th edit", 2),
    }  # fmt: skip
    assert all(len(taken) == 2 for taken in seconds.values())
    first, nth = (seconds[f"record-steps, {which} edit", 2] for which in ("first", "n-th"))
    assert all(whole > last > 0 for whole, last in zip(first, nth, strict=True))


def test_an_edit_that_went_another_way_is_no_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["first_edits", *OPTIONS, "--edit-ratio", "1"])
    assert first_edits.main() == 2
    assert "error: an edit was to run cold and ran dense: the edit reaches 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--steps", "4", "--skip", "4", "--coarse", "2", "--record-steps", "2"],
            "4 of 4 steps cannot stand for all of them: choose 2 to 3",
        ),
        (["--coarse", "1"], "1 of 30 steps cannot stand for all of them: choose 2 to 29"),
        (["--table-only"], "nothing was measured yet"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["first_edits", *options, "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        first_edits.main()
    assert said in capsys.readouterr().err


def test_the_table_says_what_skipping_steps_is_worth_in_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {4: (36.0, 30.0), 5: (39.0, 32.0), 7: (41.0, 36.0)}
    psnrs = [
        (count, way, psnr)
        for count, (cold, skip) in measured.items()
        for way, psnr in {"cold": cold, "skip": skip, "record": 35.0}.items()
    ]
    rows = [
        {"steps": 30, "dense_steps": count, "way": way, "inside_psnr": psnr, "whole_psnr": psnr}
        for count, way, psnr in psnrs
    ]
    (tmp_path / "coarse.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(coarse, "RESULTS", tmp_path)
    curve = {
        "model": "sdxl", "size": [1024, 512], "edit_ratio": 0.0172, "settings": {"steps_run": 30}, "dtype": "bfloat16",
        "policy": "close", "norm": "original",
        "points": [
            {"way": "dense", "dense_steps": 30, "seconds": [610.0, 660.0, 610.0]},
            {"way": "step-skip", "dense_steps": 7, "seconds": [150.0, 150.0, 150.0]},
            {"way": "cold", "dense_steps": 4, "seconds": [130.0, 110.0, 130.0]},
            {"way": "cold", "dense_steps": 9, "seconds": [250.0, 250.0, 250.0]},
        ],
        "warnings": ["busy"],
        "environment": {"processor": {"name": "EPYC", "cores": 2}, "packages": {"torch": "2.15.0"}},
    }  # fmt: skip
    text = first_edits.markdown({"curves": [curve]})
    assert "1.72% edited, 30 steps, bfloat16, policy close, norms original** (EPYC, 2 cores, torch 2.15.0)" in text
    assert "| step-skip | 7 | 150 | 4.07× | 36.0 | – | – |" in text
    # 20 s a step, so that 130 s are six of them, between 32 and 36 dB.
    assert "| cold | 4 | 130 | 4.69× | 36.0 | 6.00 | 34.0 |" in text
    assert "| cold | 9 | 250 | 2.44× | – | 12.0 | – |" in text
    assert "- busy" in text
    other = first_edits.markdown({"curves": [curve | {"policy": "wide"}]})
    assert "| cold | 4 | 130 | 4.69× | – | 6.00 | – |" in other  # decibels were measured with other masks


def test_every_policy_has_an_entry_of_its_own(tmp_path: Path) -> None:
    entries = [{"model": "sdxl", "size": [64, 64], "policy": name, "points": [name]} for name in ("close", "wide")]
    file = tmp_path / "first-edits.json"
    for each in entries:
        file.write_text(json.dumps(first_edits.merged(file, each)))
    again = first_edits.merged(file, entries[0] | {"points": []})
    assert [(each["policy"], each["points"]) for each in again["curves"]] == [("close", []), ("wide", ["wide"])]
