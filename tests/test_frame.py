"""Pictures of any size: padded at the model's edge, cropped back, and no padding in masks, scores or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.engines.local import check_sizes, run_jobs
from sparsedit.errors import InputError
from sparsedit.frame import Frame
from sparsedit.jobs import Job, plan_jobs
from sparsedit.manifest import Manifest, single_case
from sparsedit.pixels import stages_of
from sparsedit.plan import Edit, plan_edit
from sparsedit.runs import RunFolder
from sparsedit.settings import MaskPolicy
from tests.pipelines import tiny_sdxl
from tests.test_run import Watch

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
PRESET: dict[str, Any] = {"steps": 3, "strength": 0.7, "guidance": 3.0}
SETTINGS = {"prompt": "a house", "seed": 7} | PRESET
SIZES = [(1, 1), (7, 9), (90, 61), pytest.param((8192, 16), marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_sdxl()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def painted(picture: Image.Image) -> Image.Image:
    """A stroke at the lower right, where a picture is padded."""
    levels = np.asarray(picture).copy()
    levels[-(levels.shape[0] // 4) - 1 :, -(levels.shape[1] // 4) - 1 :] = (200, 30, 30)
    return Image.fromarray(levels)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 8]))
def test_padding_is_cropped_back_and_reaches_the_next_multiple(height: int, width: int, multiple: int) -> None:
    frame = Frame((height, width), multiple)
    picture = torch.rand(1, 3, height, width)
    padded = frame.pad(picture)
    assert tuple(padded.shape[2:]) == frame.padded
    assert all(side % multiple == 0 for side in frame.padded)
    assert max(frame.padded[0] - height, frame.padded[1] - width) < multiple
    assert torch.equal(frame.crop(padded), picture)
    assert torch.equal(padded[..., -1, -1], picture[..., -1, -1])
    mask = torch.ones(height, width, dtype=torch.bool)
    assert frame.pad_mask(mask).sum() == mask.sum()
    assert frame.fits == (frame.pad(picture) is picture)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_an_edit_of_any_size_has_that_size_and_keeps_what_is_outside(
    size: tuple[int, int], task: str, pipe: DiffusionPipeline
) -> None:
    original = noise(*size)
    editor = SparseEditor(pipe, policy=POLICY, break_even=1.0)
    request = editor.request(original, task=task, **SETTINGS)
    drawn = torch.from_numpy((np.asarray(painted(original)) != np.asarray(original)).any(2))
    edit = Edit(painted(original), drawn)
    own = editor.record_request(request).picture
    warm, dense = editor.apply(edit), editor.dense(request, edit)
    whole, [alongside] = editor.alongside(request, [edit])
    for result, made in ((warm, own), (alongside, whole.picture)):
        kept = request.original if task == "inpaint" else made
        assert result.image.size == dense.image.size == size
        assert torch.equal(result.picture[..., ~result.mask], kept[..., ~result.mask])


def test_a_padded_edit_of_everything_is_the_dense_one(pipe: DiffusionPipeline) -> None:
    original = noise(90, 61)
    editor = SparseEditor(pipe, policy=POLICY, break_even=1.0)
    request = editor.request(original, **SETTINGS)
    everything = torch.ones(61, 90, dtype=torch.bool)
    editor.record(original, **SETTINGS)
    warm = editor.edit(original, mask=everything)
    assert torch.allclose(warm.picture, editor.dense(request, Edit(original, everything)).picture, atol=1e-4)


def test_padding_is_in_no_mask_and_in_no_share(pipe: DiffusionPipeline) -> None:
    original = noise(9, 7)
    editor = SparseEditor(pipe, policy=POLICY)
    everything = Edit(original, torch.ones(7, 9, dtype=torch.bool))
    plan = plan_edit(editor.request(original, **SETTINGS), everything, POLICY)
    assert plan.edit_ratio == 1
    assert {mask.shape for mask in (plan.changed, plan.hole, plan.blend)} == {(7, 9)}
    assert plan.sites.size == (8, 16)
    assert plan.sites.level((8, 16)).count == 63


def jobs(folder: Path, manifest: Manifest, **flags: Any) -> list[Job]:
    return plan_jobs(manifest, PRESET, {}, flags)


def test_a_run_says_what_it_padded_and_its_files_have_the_pictures_size(
    tmp_path: Path, pipe: DiffusionPipeline
) -> None:
    noise(90, 61).save(tmp_path / "original.png")
    painted(noise(90, 61)).save(tmp_path / "painted.png")
    work = jobs(tmp_path, single_case(tmp_path / "original.png", [tmp_path / "painted.png"]))
    assert check_sizes(work, stages_of(pipe)) == ["original.png is 90x61: padded to 96x64 and cropped back"]
    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    [record] = run_jobs(work, pipe, "tiny", folder, Watch(), "one")
    assert (record["status"], record["size"], record["padded_size"]) == ("ok", [90, 61], [96, 64])
    assert record["fidelity"]["outside_equal"] is True
    pictures = list((folder.path / "images").rglob("*.png"))
    assert len(pictures) == 6
    assert {Image.open(picture).size for picture in pictures} == {(90, 61)}


def test_a_size_that_fits_is_not_spoken_of(tmp_path: Path, pipe: DiffusionPipeline) -> None:
    noise(96, 64).save(tmp_path / "original.png")
    painted(noise(96, 64)).save(tmp_path / "painted.png")
    work = jobs(tmp_path, single_case(tmp_path / "original.png", [tmp_path / "painted.png"]))
    assert check_sizes(work, stages_of(pipe)) == []


def test_a_task_that_moves_latents_takes_no_padding(pipe: DiffusionPipeline) -> None:
    with pytest.raises(InputError, match=r"90x61 .* multiples of 8"):
        SparseEditor(pipe).request(noise(90, 61), task="pan", **SETTINGS | {"strength": 1.0})


def test_a_difference_of_a_compressions_noise_comes_with_a_hint_at_the_threshold(
    tmp_path: Path, pipe: DiffusionPipeline
) -> None:
    generator = np.random.default_rng(0)
    clean = np.asarray(noise(96, 64)).astype(int)
    noisy = np.clip(clean + generator.choice([-4, 4], clean.shape), 0, 255)
    noisy[20:34, 30:52] = (200, 30, 30)
    editor = SparseEditor(pipe)
    request = editor.request(Image.fromarray(clean.astype(np.uint8)), **SETTINGS)
    edit = Edit(Image.fromarray(noisy.astype(np.uint8)))
    hint = plan_edit(request, edit, POLICY).hint
    assert hint is not None
    assert "noise: --threshold 0.04 leaves" in hint
    assert hint in str(editor.dense(request, edit).reason)
    assert plan_edit(request, Edit(painted(noise(96, 64))), POLICY).hint is None


def test_a_mask_that_leaves_almost_nothing_may_be_inverted(pipe: DiffusionPipeline) -> None:
    editor = SparseEditor(pipe)
    request = editor.request(noise(96, 64), task="inpaint", **SETTINGS)
    mask = torch.ones(64, 96, dtype=torch.bool)
    mask[20:30, 20:40] = False
    assert "turn it round" in str(plan_edit(request, Edit(mask=mask), POLICY).hint)
    assert plan_edit(request, Edit(mask=~mask), POLICY).hint is None
