"""The demo model over its manifest's same-prompt edits: how close sparse comes to dense. Slow; real weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sparsedit.editor import SparseEditor
from sparsedit.images import load_image
from sparsedit.jobs import Job, plan_jobs
from sparsedit.manifest import load_manifest
from sparsedit.models.loading import load_pipeline
from sparsedit.models.presets import get_preset
from sparsedit.plan import Edit
from sparsedit.results import Result

pytestmark = pytest.mark.slow
MANIFEST = Path(__file__).parents[1] / "manifests" / "demo.yaml"


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    planned = plan_jobs(load_manifest(MANIFEST), get_preset("demo").defaults, {}, {})
    return [job for job in planned if job.settings.task == "sdedit"]


@pytest.fixture(scope="module")
def results(jobs: list[Job]) -> list[tuple[SparseEditor, Result, Result]]:
    """Every same-prompt edit: its editor, the warm result and the dense one."""
    pipe = load_pipeline("demo")
    found = []
    for job in jobs:
        settings = job.settings
        assert settings.steps is not None
        assert settings.strength is not None
        assert settings.guidance is not None
        editor = SparseEditor(pipe, policy=settings.mask_policy(), norm=settings.norm)
        request = editor.request(
            load_image(job.case.original),
            prompt=job.prompt,
            steps=settings.steps,
            strength=settings.strength,
            guidance=settings.guidance,
            seed=job.seed,
        )
        editor.record_request(request)
        for variant in job.variants:
            if variant.prompt == job.prompt and variant.edited:
                edited = load_image(variant.edited)
                found.append((editor, editor.edit(edited), editor.dense(request, Edit(edited))))
    assert len(found) >= 4
    return found


def test_inside_the_edit_sparse_is_dense_to_35_db(results: list[tuple[SparseEditor, Result, Result]]) -> None:
    scores = [
        psnr(warm.picture[..., warm.plan.changed], dense.picture[..., warm.plan.changed]) for _, warm, dense in results
    ]
    assert sum(scores) / len(scores) >= 35, scores


def test_a_thin_decode_is_the_dense_decode_to_48_db(results: list[tuple[SparseEditor, Result, Result]]) -> None:
    """Inside the mask, which is all of it that is shown."""
    scores = []
    for editor, warm, _ in results:
        assert warm.latents is not None
        with torch.inference_mode():
            decoded = editor.stages.decode(warm.latents)
        scores.append(psnr(warm.generated[..., warm.mask], decoded[..., warm.mask]))
    assert min(scores) >= 48, scores


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """PSNR in dB of values in [-1, 1]."""
    return -10 * math.log10(float(((a - b) / 2).square().mean()))
