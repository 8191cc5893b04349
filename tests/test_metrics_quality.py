"""What a run's judge says of an edit, and which values its records keep."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sparsedit.commands.unscored import say_unscored
from sparsedit.metrics.backbones import FOLDER_VARIABLE, why_missing
from sparsedit.metrics.quality import Judge
from tests.backbones import save_backbone

QUALITY = ("ssim", "psnr", "mse", "lpips", "clip", "clip_edited", "structure")


@pytest.fixture(autouse=True)
def only_lpips_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    save_backbone("lpips", tmp_path)


def test_a_judge_scores_with_what_is_there_and_says_what_is_not() -> None:
    judge = Judge()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:20, 10:30] = True
    edit = noise.copy()
    edit[8:22, 8:32] //= 2
    pictures = Image.fromarray(noise), Image.fromarray(edit)
    scores = judge.quality(*pictures, mask, "a [red] house")
    entry = scores.entry()
    assert entry["protocol"] == "pnp-v1"
    assert set(QUALITY) <= set(entry)
    assert entry["psnr"] > 20
    assert entry["lpips"] > 0
    assert entry["clip"] is entry["clip_edited"] is entry["structure"] is None
    assert scores.missing == judge.missing == {
        "clip": why_missing("clip"), "clip_edited": why_missing("clip"), "structure": why_missing("dino")
    }  # fmt: skip
    assert json.dumps(entry, allow_nan=False)
    regions = judge.fidelity(*pictures, {"inside": mask})
    assert regions["inside"]["lpips"] > regions["whole"]["lpips"] > 0


def test_what_cannot_be_scored_is_said_before_a_run(tmp_path: Path) -> None:
    said = io.StringIO()
    say_unscored(Console(file=said, width=400))
    assert "clip, structure (sparsedit models pull clip; sparsedit models pull dino)" in said.getvalue()
    assert "lpips" not in said.getvalue()
    for name in ("clip", "dino"):
        save_backbone(name, tmp_path)
    nothing = io.StringIO()
    say_unscored(Console(file=nothing))
    assert nothing.getvalue() == ""
