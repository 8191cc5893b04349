"""benchmarks/edit_sizes.py: its edits, where its curves cross, and what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import edit_sizes as bench
from benchmarks.edit_sizes_table import break_even, macs_shares, markdown, time_shares
from benchmarks.machine import machine_slug
from sparsedit.measure.ceilings import Ceilings
from sparsedit.measure.twin import Twin
from sparsedit.stages import Stages
from tests.pipelines import tiny_sdxl

PROCESSOR = {"name": "AMD EPYC 9004 96-Core Processor", "cores": 2}


def point(pattern: str, ratio: float, *seconds: float, macs: int = 1) -> dict[str, Any]:
    counted = {"macs": macs, "attention_macs": 0, "least_bytes": 1}
    return {"pattern": pattern, "edit_ratio": ratio, "sites": ratio, "seconds": list(seconds)} | counted


@pytest.fixture
def document() -> dict[str, Any]:
    """One curve whose thin call costs as much as the dense one at 10 %, and a published point."""
    curve = {
        "model": "sdxl", "stage": "unet", "size": [1024, 512], "batch": 2, "dtype": "bfloat16", "device": "cpu",
        "policy": "tight", "packed": True, "record_s": 1.0, "cache_bytes": 1, "load": 0.0, "warnings": ["a warning"],
        "dense": {"macs": 8, "attention_macs": 2, "least_bytes": 1, "seconds": [10.0, 20.0]},
        "points": [
            point("contiguous", 0.01, 1.0, 2.0), point("contiguous", 1.0, 100.0, macs=8), point("scattered", 0.01, 2.0),
        ],
        "ceilings": {"macs_per_second": 2.0, "bytes_per_second": 1.0},
        "environment": {"processor": PROCESSOR, "packages": {"torch": "2.15.0"}, "gpus": []},
    }  # fmt: skip
    published = {"preset": "sdxl", "stage": "unet", "system": "SIGE", "case": "inpaint", "edit_ratio": 0.116}
    published |= {"macs_share": 0.32, "time_share": 0.4, "hardware": "A100", "source": "a README"}
    return {"schema": 1, "curves": [curve], "published": [published]}


def test_break_even_lies_between_two_points_on_a_log_scale() -> None:
    assert break_even([(0.01, 0.1), (1.0, 10.0)]) == pytest.approx(0.1)
    assert break_even([(0.01, 0.1), (0.5, 0.9)]) is None
    assert break_even([(0.01, 1.5), (0.5, 1.9)]) is None
    assert break_even([(0.1, 0.5), (0.2, 1.0)]) == pytest.approx(0.2)


def test_shares_are_medians_of_rounds(document: dict[str, Any]) -> None:
    [curve] = document["curves"]
    assert time_shares(curve, "contiguous") == [(0.01, pytest.approx(0.1)), (1.0, pytest.approx(10))]
    assert macs_shares(curve, "contiguous") == [(0.01, 0.125), (1.0, 1.0)]


def test_the_table_shows_dense_thin_break_even_and_published(document: dict[str, Any]) -> None:
    text = markdown(document)
    assert "**sdxl, unet, 1024x512, batch 2, bfloat16** (AMD EPYC" in text
    assert "| dense | – | 8e-09 | – | 15.0 |" in text
    assert "| 1% contiguous | 1% | 1e-09 | 8.00× | 1.50 | 10.0× \\(10.0–10.0\\) |" in text
    assert "- break-even, contiguous: 10% of the pixels" in text
    assert "- break-even, scattered: none up to 1% of the pixels" in text
    assert "| SIGE | inpaint | 11.6% | 32% | 40% | A100 |" in text


def test_a_curve_measured_again_replaces_the_old_one(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "edit-sizes.json"
    file.write_text(json.dumps(document))
    [old] = document["curves"]
    merged = bench.merged(file, [old | {"record_s": 9.0}, old | {"model": "demo"}])
    assert [(curve["model"], curve["record_s"]) for curve in merged["curves"]] == [("sdxl", 9.0), ("demo", 1.0)]
    assert {row["preset"] for row in merged["published"]} >= {"sdxl", "sdxl-refiner"}
    assert all(0 < row["macs_share"] < 1 for row in merged["published"])


def test_edits_that_reach_every_site_are_measured_once() -> None:
    options = bench.Options("decoder", None, 2, (0.02, 0.9, 1.0), 3, "tight", False, "cpu", "float32")
    twin = Twin(Stages(tiny_sdxl().to("meta")), 32, 64, 2)
    found = bench.points(twin, options, (64, 32), torch.float32)
    assert [edit.name for edit in found] == ["contiguous 2.0%", "contiguous 90.0%", "scattered 2.0%"]
    assert found[0].counted.macs < found[1].counted.macs


def test_costly_edits_take_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def interleave(runs: Any, device: Any, *, samples: Any, **_: Any) -> dict[str, Any]:
        asked.update(samples)
        return {}

    monkeypatch.setattr(bench, "interleave", interleave)
    call: Any = type("Call", (), {"dense": None, "device": "cpu", "thin": lambda self, sites: None})()
    nothing: Any = None
    edits = [bench.Point("contiguous", ratio, ratio, nothing, nothing) for ratio in (0.01, 0.5)]
    bench.sample(call, edits, {edits[0].name: True, edits[1].name: False}, 5)
    assert asked == {"dense": 5, "contiguous 1.0%": 5, "contiguous 50.0%": 1}


def test_a_small_curve_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Ceilings("A processor", "float32", 1e12, 1e11, {"a product": 1e12}, 0.0)
    monkeypatch.setattr(bench, "ceilings", lambda *_, **__: (best, []))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as where the extra is not installed
    command = ["profile", "--model", "demo", "--stage", "decoder", "--size", "64x64", "--ratios", "0.02,1"]
    monkeypatch.setattr(sys, "argv", [*command, "--samples", "1", "--output", str(tmp_path / "out")])
    bench.main()
    printed = capsys.readouterr()
    document = json.loads(printed.out.splitlines()[-1])
    assert document == json.loads((tmp_path / "out/edit-sizes.json").read_text())
    assert [len(each["seconds"]) for each in document["curves"][0]["points"]] == [1, 1, 1]
    assert "no plot: matplotlib is missing" in printed.err
    (tmp_path / "out/edit-sizes.md").unlink()
    monkeypatch.setattr(sys, "argv", ["profile", "--plot-only", "--output", str(tmp_path / "out")])
    bench.main()
    assert "2% contiguous" in (tmp_path / "out/edit-sizes.md").read_text()


def test_the_plot_is_a_picture(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.edit_sizes_plot import plot

    plot(document, tmp_path / "edit-sizes.png")
    assert (tmp_path / "edit-sizes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("AMD EPYC", "epyc-2core-avx512"),
        ("AMD EPYC 9004 96-Core Processor", "epyc-9004-2core-avx512"),
        ("Intel(R) Xeon(R) Platinum 8480C @ 2.00GHz", "xeon-platinum-8480c-2core-avx512"),
        ("", "machine-2core-avx512"),
    ],
)
def test_a_machine_has_a_short_name(name: str, slug: str) -> None:
    assert machine_slug({"processor": {"name": name, "cores": 2, "capability": "AVX512"}}) == slug


def test_a_gpu_names_its_machine() -> None:
    assert machine_slug({"gpus": [{"name": "NVIDIA H200"}]}, "cuda:0") == "h200"
