"""benchmarks/whole_edits.py and benchmarks/setting_up.py: what they measure, and what they write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import setting_up, whole_edits


def run(module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_large_edits_run_densely_and_small_ones_thinly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--size", "64x64", "--steps", "2", "--ratios", "0.01,0.9,1", "--samples", "2", "--output", str(tmp_path)]
    curve = run(whole_edits, monkeypatch, capsys, *options)
    ways = {(point["pattern"], round(point["edit_ratio"], 2)): point["way"] for point in curve["points"]}
    assert ways == {("contiguous", 0.01): "warm", ("contiguous", 0.9): "dense", ("scattered", 0.01): "warm"}
    assert all(len(point["seconds"]) == 2 for point in (curve["dense"], *curve["points"]))
    assert json.loads((tmp_path / "whole-edits.json").read_text())["curves"] == [curve]


def test_the_table_names_the_slowest_edit_and_a_curve_measured_again_replaces_the_old_one(tmp_path: Path) -> None:
    def point(pattern: str, way: str, *seconds: float) -> dict[str, Any]:
        return {"pattern": pattern, "edit_ratio": 0.5, "sites": 0.6, "way": way, "seconds": list(seconds)}

    curve = {
        "model": "demo", "size": [64, 32], "settings": {"steps": 4, "steps_run": 2}, "dtype": "float32", "record_s": 3,
        "dense": {"seconds": [2.0, 4.0]}, "warnings": ["busy"],
        "points": [point("contiguous", "warm", 1.0, 2.0), point("scattered", "dense", 4.0, 4.0)],
        "environment": {"processor": {"name": "EPYC", "cores": 2}, "packages": {"torch": "2.15.0"}},
    }  # fmt: skip
    file = tmp_path / "whole-edits.json"
    file.write_text(json.dumps({"curves": [curve, curve | {"model": "sdxl"}]}))
    document = whole_edits.merged(file, curve | {"record_s": 9})
    assert [(each["model"], each["record_s"]) for each in document["curves"]] == [("demo", 9), ("sdxl", 3)]
    text = whole_edits.markdown(document)
    assert "**demo, 64x32, 2 of 4 steps, float32** (EPYC, 2 cores, torch 2.15.0)" in text
    assert "| 50% contiguous | 60% | warm | 1.50 | 2.00× \\(2.00–2.00\\) |" in text
    assert "- slowest: 50% scattered, 0.75× of dense" in text
    assert "- busy" in text


def test_setting_up_lays_out_what_every_stage_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "demo", "--size", "64x64", "--edit", "8x8", "--samples", "2", "--output", str(tmp_path)]
    document = run(setting_up, monkeypatch, capsys, *options)
    assert json.loads((tmp_path / "setting-up.json").read_text()) == document
    seconds = document["seconds"]
    assert set(seconds) == {setting_up.PLANNING, *setting_up.STAGES, setting_up.WHOLE}
    for whole, *parts in zip(seconds.pop(setting_up.WHOLE), *seconds.values(), strict=True):
        assert whole >= sum(parts) > 0
