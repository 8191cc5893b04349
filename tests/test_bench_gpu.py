"""The GPU benchmark without a GPU: every part runs on something tiny, says what it skips, and loses nothing.

Where a part captures, a rehearsal stands in for CUDA: it runs the captured function again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import edits, exactness, timing
from benchmarks.gpu_parts.budget import Budget, SkippedError, at_most
from benchmarks.gpu_parts.document import Document, table
from benchmarks.gpu_parts.kernels import Event, summary
from benchmarks.gpu_parts.subject import TINY, build, same_weights, unet_subject
from sparsedit.masks import edit_ratio
from sparsedit.settings import POLICIES
from sparsedit.sparse.graphs import CudaCapture
from sparsedit.sparse.rows import tensors_of

CPU = torch.device("cpu")


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a CPU capture, by running the function again and copying its results."""

    def capture(self: Any, function: Callable[[], Any], device: torch.device) -> Any:
        results = function()

        def replay() -> None:
            for room, new in zip(tensors_of(results), tensors_of(function()), strict=True):
                room.copy_(new)

        return replay, results

    monkeypatch.setattr(CudaCapture, "__call__", capture)
    monkeypatch.setattr(gpu.Bench, "_only_on_cuda", lambda self: None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP", 0)


@pytest.fixture
def bench() -> gpu.Bench:
    return gpu.Bench(CPU, tiny=True, data=None, samples=1, budget=Budget(600))


def test_every_part_runs_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results" / "gpu.json"
    code = gpu.main(["--device", "cpu", "--tiny", "--samples", "1", "--output", str(output)])
    document = json.loads(output.read_text())
    parts, printed = document["parts"], capsys.readouterr().out
    assert code == 0
    assert document["environment"]["packages"]["torch"]
    assert document["masks"] == edits.DRAWN
    for name, part in parts.items():
        alone = name.startswith("graphs") or name.endswith("compiled")
        assert part["status"] == ("skipped" if alone or name == "ceilings" else "ok"), part
        assert part["status"] == "ok" or part["reason"] in printed
        assert not alone or "measured on a CUDA GPU, and this is a cpu" in part["reason"]
    rounds = parts["unet 64x128"]["result"]
    assert set(rounds["seconds"]) == {"dense eager", "sdedit0/thin eager", "inpaint/thin eager"}
    ratio = rounds["seconds"]["dense eager"][0] / rounds["seconds"]["inpaint/thin eager"][0]
    assert rounds["speedup"]["dense eager"]["inpaint/thin eager"] == pytest.approx(ratio)
    counted = parts["multiply-adds unet 64x128"]["result"]["multiply_adds"]
    assert 0 < counted["sdedit0"] < counted["inpaint"] < counted["dense"]
    assert parts["profile unet 64x128"]["result"]["calls"]["sdedit0/thin eager"]["kernels"] > 0
    assert "holds: sites outside keep their bits" in printed


def test_the_file_runs_from_a_checkout_and_skips_what_there_is_no_time_for(tmp_path: Path) -> None:
    script, output = Path(gpu.__file__), tmp_path / "gpu.json"
    command = [sys.executable, str(script), "--device", "cpu", "--tiny", "--minutes", "0", "--output", str(output)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    parts = json.loads(output.read_text())["parts"]
    assert {part["status"] for part in parts.values()} == {"skipped"}
    assert "exactness skipped: exactness takes about 1 s and 0 s were left; raise --minutes" in done.stdout


@pytest.mark.usefixtures("rehearsed")
def test_captures_become_a_way_of_the_rounds(bench: gpu.Bench) -> None:
    name = "encoder 64x128"
    with torch.no_grad():
        bench.recording(name, (64, 128))
        captured = bench.capture(name)
        result = bench.rounds(name)
    assert all(edit["against_thin_eager"]["relative_error"] < 1e-5 for edit in captured["edits"].values())
    assert {"sdedit0/thin graphs", "inpaint/thin graphs"} < set(result["median"])
    assert result["first_call_s"]["sdedit0/thin graphs"].keys() == {"sites", "call"}


@pytest.mark.usefixtures("rehearsed")
def test_compiled_ways_join_the_rounds(bench: gpu.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "encoder 64x128"
    monkeypatch.setattr(gpu, "same_weights", lambda model: model)
    monkeypatch.setattr(timing, "compiled_dense", lambda model: model)
    with torch.no_grad():
        bench.recording(name, (64, 128))
        bench.compile_dense(name)
        result = bench.compile_thin(name)
    assert result["speedup"].keys() == {"dense eager", "dense compiled"}
    assert "sdedit0/thin compiled" in result["speedup"]["dense compiled"]
    assert result["against_thin_eager"]["relative_error"] < 1e-5


@pytest.mark.usefixtures("rehearsed")
def test_the_invariants_of_graphs_hold() -> None:
    size, model = (128, 256), build("demo", "unet", torch.float32, CPU)
    with torch.no_grad():
        subject = unet_subject(model, *size, CPU, torch.float32)
        subject.record()
        checks = exactness._graphs(subject, edits.on_canvas(edits.drawn_edits()["sdedit0"], *size))
    assert [check["check"] for check in checks if not check["holds"]] == []


def test_drawn_masks_have_the_published_ratios_and_the_policy_is_tight() -> None:
    drawn = edits.drawn_edits()
    assert edit_ratio(drawn["sdedit0"]) == pytest.approx(0.0172, abs=5e-5)
    assert edit_ratio(drawn["inpaint"]) == pytest.approx(0.116, abs=5e-4)
    tight = POLICIES["tight"]
    assert (tight.threshold, tight.grow, tight.vae_margin) == (edits.THRESHOLD, edits.GROW, edits.VAE_MARGIN)
    assert tight.level_dilation == 0


@pytest.mark.skipif(not Path("../shared/cases/sige").is_dir(), reason="the published pictures are not here")
def test_drawn_masks_lie_where_the_published_ones_do() -> None:
    published = edits.published_edits(Path("../shared/cases/sige"))
    for name, drawn in edits.drawn_edits().items():
        common = (drawn & published[name]).sum() / (drawn | published[name]).sum()
        assert common > 0.9


def test_a_taller_picture_holds_the_same_edit() -> None:
    mask = edits.drawn_edits()["sdedit0"]
    tall = edits.on_canvas(mask, 1024, 1024)
    assert tall.shape == (1024, 1024)
    assert torch.equal(tall[256:768], mask)
    assert tall.sum() == mask.sum()
    assert edit_ratio(edits.on_canvas(mask, 64, 128)) == pytest.approx(0.0172, abs=3e-3)


def test_the_compiled_model_shares_its_weights_and_computes_the_same() -> None:
    model = build(TINY.preset, "unet", torch.float32, CPU)
    twin = same_weights(model)
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    assert all(one.data_ptr() == other.data_ptr() and one.stride() == other.stride() for one, other in pairs)
    with torch.no_grad():
        inputs = unet_subject(model, 32, 64, CPU, torch.float32).edited[0]
        assert torch.equal(model(**inputs).sample, twin(**inputs).sample)


def test_a_budget_counts_down() -> None:
    moments = iter([10.0, 12.0, 12.5, 75.0])
    budget = Budget(60, now=lambda: next(moments))
    assert budget.left() == 58.0
    budget.needs(50, "compiling")
    with pytest.raises(SkippedError, match="compiling takes about 50 s and 0 s were left; raise --minutes"):
        budget.needs(50, "compiling")


def test_work_that_takes_too_long_is_broken_off_whatever_catches_exceptions() -> None:
    def stubborn() -> None:
        while True:
            try:
                time.sleep(10)
            except Exception:
                continue

    with (
        pytest.raises(SkippedError, match="compiling took longer than the 0 s it was given"),
        at_most(0.05, "compiling"),
    ):
        stubborn()
    with at_most(60, "nothing"):
        pass


def test_a_part_that_fails_takes_no_other_with_it(
    bench: gpu.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> dict[str, Any]:
        assert json.loads(output.read_text())["parts"]["first"]["result"] == {"figure": 1}
        raise RuntimeError("CUDA error: out of luck")

    output = tmp_path / "gpu.json"
    document = Document(output, {})
    parts = {"first": lambda: {"figure": 1}, "second": fails, "third": lambda: {"figure": 3}}
    monkeypatch.setattr(gpu.Bench, "parts", lambda self: parts)
    gpu.run(bench, document)
    written = json.loads(output.read_text())["parts"]
    assert [part["status"] for part in written.values()] == ["ok", "failed", "ok"]
    assert written["second"]["reason"] == "RuntimeError: CUDA error: out of luck"
    assert "second failed: RuntimeError: CUDA error: out of luck" in table(document)
    assert not document.sound


def test_a_broken_invariant_is_said_and_makes_the_run_fail(tmp_path: Path) -> None:
    document = Document(tmp_path / "gpu.json", {})
    checks = [{"check": "sites outside keep their bits", "holds": False}]
    document.add("exactness", {"status": "ok", "result": {"checks": checks}})
    assert "BROKEN: sites outside keep their bits" in table(document)
    assert not document.sound


def test_a_summary_names_kernels_by_time_and_every_wait() -> None:
    found = summary(
        [
            Event("gemm", True, 3, 900.0),
            Event("Memcpy DtoH (Device -> Pageable)", True, 1, 2.0),
            Event("elementwise", True, 10, 100.0),
            Event("cudaLaunchKernel", False, 13, 40.0),
            Event("cudaStreamSynchronize", False, 1, 5.0),
            Event("aten::linear", False, 3, 50.0),
        ]
    )
    assert [kernel["name"] for kernel in found["top"]][:2] == ["gemm", "elementwise"]
    assert (found["kernels"], found["device_ms"]) == (14, pytest.approx(1.002))
    assert found["copies_to_host"] == {"Memcpy DtoH (Device -> Pageable)": 1}
    assert found["waits"] == {"cudaStreamSynchronize": 1}
    assert found["launches"] == {"cudaLaunchKernel": 13}
