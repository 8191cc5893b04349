"""First edits without a run of the original, and recordings of some steps: what they equal, keep and refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler, PNDMScheduler
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.errors import SettingsError
from sparsedit.images import to_tensor
from sparsedit.plan import Edit
from sparsedit.settings import MaskPolicy
from tests.pipelines import ANCESTRAL, DDIM, tiny_refiner, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 8, "strength": 0.8, "guidance": 3.0, "seed": 7}
CALLS = 6
PIPELINES: dict[str, Callable[[], Any]] = {
    "euler": tiny_sdxl,
    "euler-a": lambda: tiny_sdxl(ANCESTRAL),
    "lcm": lambda: tiny_sdxl(LCMScheduler(beta_schedule="scaled_linear")),
    "dpm++": lambda: tiny_sdxl(DPMSolverMultistepScheduler(beta_schedule="scaled_linear")),
    "ddim": tiny_sd15,
}


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[20:34, 30:52] = (200, 30, 30)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[17:38, 40:57] = True
    return mask


@pytest.mark.parametrize("name", PIPELINES)
def test_with_every_site_active_a_cold_edit_is_the_dense_one(
    name: str, original: Image.Image, edited: Image.Image
) -> None:
    """With norms that follow the edit: whatever the coarse steps left, nothing of it is read then."""
    editor = SparseEditor(PIPELINES[name](), policy=POLICY, break_even=1.0, norm="updated")
    request = editor.request(original, **SETTINGS)
    edit = Edit(edited, torch.ones(64, 96, dtype=torch.bool), "a boat")
    _, cold = editor.cold(request, edit, 3)
    dense = editor.dense(request, edit)
    assert cold.way == "cold"
    assert torch.allclose(cold.picture, dense.picture, atol=1e-4)


@pytest.mark.parametrize("name", PIPELINES)
def test_thin_steps_bring_the_coarse_ones_nearer_to_the_dense_edit(
    name: str, original: Image.Image, edited: Image.Image
) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY)
    request = editor.request(original, **SETTINGS)
    dense = editor.dense(request, Edit(edited))
    run, cold = editor.cold(request, Edit(edited), 3)
    assert len(run.caches["unet"]) == 3
    short = replace(request, schedule=replace(request.schedule, kept=run.kept))
    skipped = editor.dense(short, Edit(edited))
    inside = dense.plan.changed
    errors = [(result.picture - dense.picture)[..., inside].square().mean() for result in (cold, skipped)]
    assert 0 < errors[0] < errors[1]


@pytest.mark.parametrize("channels", [4, 9])
def test_cold_inpainting_keeps_the_photo_outside(channels: int, original: Image.Image, mask: torch.Tensor) -> None:
    editor = SparseEditor(tiny_sdxl(in_channels=channels), policy=POLICY)
    request = editor.request(original, task="inpaint", **SETTINGS)
    _, result = editor.cold(request, Edit(mask=mask, prompt="a boat"), 3)
    photo = to_tensor(original)
    assert result.way == "cold"
    assert torch.equal(to_tensor(result.image)[..., ~mask], photo[..., ~mask])
    assert not torch.equal(result.picture[..., mask], photo[..., mask])


@pytest.mark.parametrize("name", ["euler", "euler-a"])
def test_the_same_cold_edit_twice_is_the_same_bits(name: str, original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY)
    request = editor.request(original, **SETTINGS)
    first, second = (editor.cold(request, Edit(edited), 3)[1] for _ in range(2))
    assert torch.equal(first.picture, second.picture)


def test_a_cold_edit_makes_each_call_once_and_says_so(original: Image.Image, edited: Image.Image) -> None:
    steps: list[tuple[int, int]] = []
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, on_step=lambda done, total: steps.append((done, total)))
    _, result = editor.cold(editor.request(original, **SETTINGS), Edit(edited), 3)
    assert steps == [(1, 3), (2, 3), (3, 3), *((step, CALLS) for step in range(1, CALLS + 1))]
    assert {stage: len(samples) for stage, samples in result.clock.samples.items()} == {
        "text": 1,
        "encoder": 1,
        "unet": 2,
        "decoder": 1,
    }


def test_what_is_no_cold_edit_runs_otherwise_and_says_so(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, break_even=0.3)
    request = editor.request(original, **SETTINGS)
    _, all_dense = editor.cold(request, Edit(edited), CALLS)
    assert (all_dense.way, torch.equal(all_dense.picture, editor.dense(request, Edit(edited)).picture)) == (
        "dense",
        True,
    )
    assert "which is the dense edit" in str(all_dense.reason)
    _, huge = editor.cold(request, Edit(Image.fromarray(255 - np.asarray(original))), 3)
    assert (huge.way, "ran dense" in str(huge.reason)) == ("dense", True)
    _, nothing = editor.cold(request, Edit(original), 3)
    assert (nothing.way, torch.equal(nothing.picture, to_tensor(original))) == ("none", True)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_recording_of_some_steps_keeps_the_picture_outside(
    name: str, original: Image.Image, edited: Image.Image
) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY)
    own = to_tensor(editor.record(original, record_steps=3, **SETTINGS))
    assert editor.recorded is not None
    assert len(editor.recorded.caches["unet"]) == 3
    result = editor.edit(edited)
    assert result.way == "warm"
    assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])
    assert (result.picture[..., result.mask] - own[..., result.mask]).abs().max() > 1e-3


def test_recording_all_steps_is_recording(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY)
    editor.record(original, **SETTINGS)
    plain = editor.edit(edited)
    editor.record(original, record_steps=CALLS, **SETTINGS)
    assert torch.equal(editor.edit(edited).picture, plain.picture)


def test_what_cannot_run_in_some_steps_is_refused(original: Image.Image, edited: Image.Image) -> None:
    pndm = tiny_sd15(scheduler=PNDMScheduler.from_config(DDIM.config, skip_prk_steps=True))
    editor = SparseEditor(pndm, policy=POLICY)
    with pytest.raises(SettingsError, match="PNDMScheduler cannot take some of its steps only"):
        editor.cold(editor.request(original, **SETTINGS), Edit(edited), 3)
    editor = SparseEditor(tiny_sdxl(), policy=POLICY)
    for count in (0, 1, CALLS + 1):
        with pytest.raises(SettingsError, match=f"choose 2 to {CALLS}"):
            editor.record(original, record_steps=count, **SETTINGS)
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, refiner=tiny_refiner())
    with pytest.raises(SettingsError, match="with a refiner every step is run"):
        editor.cold(editor.request(original, **SETTINGS), Edit(edited), 3)


def test_an_interrupted_cold_edit_leaves_the_pipeline_as_it_was(original: Image.Image, edited: Image.Image) -> None:
    class InterruptedEditError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if armed == [total]:
            raise InterruptedEditError

    armed: list[int] = []
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, on_step=stop)
    request = editor.request(original, **SETTINGS)
    before = editor.cold(request, Edit(edited), 3)[1].picture
    scheduler = editor.stages.image_to_image.scheduler
    for total in (3, CALLS):
        armed.append(total)
        with pytest.raises(InterruptedEditError):
            editor.cold(request, Edit(edited), 3)
        armed.clear()
        assert editor.stages.image_to_image.scheduler is scheduler
        assert not any("forward" in module.__dict__ for module in editor.stages.unet.modules())
    assert torch.equal(editor.cold(request, Edit(edited), 3)[1].picture, before)
