"""Edits on stock pipelines: what stays, what changes, and that "dense" means diffusers' own result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DPMSolverMultistepScheduler,
    LCMScheduler,
)
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.errors import CacheError, InputError, SettingsError
from sparsedit.images import to_tensor
from sparsedit.plan import Edit, composite
from sparsedit.settings import MaskPolicy
from tests.pipelines import ANCESTRAL, EULER, tiny_refiner, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 5, "strength": 0.8, "guidance": 3.0, "seed": 7}
PIPELINES: dict[str, Callable[[], Any]] = {
    "sdxl-euler": tiny_sdxl,
    "sdxl-ancestral": lambda: tiny_sdxl(ANCESTRAL),
    "sdxl-lcm": lambda: tiny_sdxl(LCMScheduler(beta_schedule="scaled_linear")),
    "sdxl-dpm++": lambda: tiny_sdxl(DPMSolverMultistepScheduler(beta_schedule="scaled_linear")),
    "sdxl-tiny-vae": lambda: tiny_sdxl(tiny_vae=True),
    "sd15-ddim": tiny_sd15,
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
def test_sdedit_keeps_the_originals_own_picture_outside(name: str, original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY)
    own = to_tensor(editor.record(original, **SETTINGS))
    result = editor.edit(edited)
    outside = ~result.mask
    assert result.way == "warm"
    assert 0.02 < (~outside).float().mean() < 0.2
    assert torch.equal(to_tensor(result.image)[..., outside], own[..., outside])
    assert (result.picture[..., result.mask] - own[..., result.mask]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "sdxl-tiny-vae"])
def test_dense_is_the_stock_pipelines_own_picture(name: str, original: Image.Image, edited: Image.Image) -> None:
    pipe = PIPELINES[name]()
    editor = SparseEditor(pipe, policy=POLICY)
    dense = editor.dense(editor.request(original, **SETTINGS), Edit(edited))
    stock = AutoPipelineForImage2Image.from_pipe(pipe)(
        prompt="a house",
        image=edited,
        num_inference_steps=5,
        strength=0.8,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    assert torch.allclose(dense.picture / 2 + 0.5, stock, atol=1e-5)


def test_inpaint_dense_is_the_stock_pipelines_inside(original: Image.Image, mask: torch.Tensor) -> None:
    pipe = tiny_sdxl()
    cells = torch.zeros(64, 96, dtype=torch.bool)
    cells[16:40, 40:64] = True
    editor = SparseEditor(pipe, policy=MaskPolicy(0.02, 0, 0, 0, 8))
    dense = editor.dense(editor.request(original, task="inpaint", **SETTINGS), Edit(mask=cells))
    stock = AutoPipelineForInpainting.from_pipe(pipe)(
        prompt="a house",
        image=original,
        mask_image=Image.fromarray(cells.numpy().astype(np.uint8) * 255),
        height=64,
        width=96,
        num_inference_steps=5,
        strength=0.8,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    assert torch.allclose((dense.generated / 2 + 0.5)[..., cells], stock[..., cells], atol=1e-5)


@pytest.mark.parametrize("build", [tiny_sdxl, tiny_sd15], ids=["sdxl", "sd15"])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpaint_keeps_the_photo_outside_the_users_mask(
    build: Callable[..., Any], channels: int, original: Image.Image, mask: torch.Tensor
) -> None:
    editor = SparseEditor(build(in_channels=channels), policy=POLICY)
    editor.record(original, task="inpaint", **SETTINGS)
    result = editor.edit(mask=mask)
    photo = to_tensor(original)
    assert torch.equal(result.mask, mask)
    assert result.plan.hole.sum() > mask.sum()
    assert torch.equal(to_tensor(result.image)[..., ~mask], photo[..., ~mask])
    assert not torch.equal(result.picture[..., mask], photo[..., mask])


def test_a_thin_edit_is_the_dense_one_where_everything_changes(original: Image.Image) -> None:
    """With every pixel active and nothing else different, warm and dense compute the same picture."""
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, break_even=1.0)
    request = editor.request(original, **SETTINGS)
    editor.record_request(request)
    everything = torch.ones(64, 96, dtype=torch.bool)
    warm = editor.edit(original, mask=everything)
    dense = editor.dense(request, Edit(original, everything))
    assert warm.way == "warm"
    assert torch.allclose(warm.picture, dense.picture, atol=1e-4)


@pytest.mark.parametrize("name", PIPELINES)
def test_alongside_is_warm_in_one_batch(name: str, original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY)
    request = editor.request(original, **SETTINGS)
    editor.record_request(request)
    other = Image.fromarray(255 - np.asarray(edited)[::-1, ::-1]).crop((0, 0, 20, 20))
    second = original.copy()
    second.paste(other, (70, 40))
    warm = [editor.edit(edited), editor.edit(second, prompt="a red boat")]
    edits = [Edit(edited), Edit(second, prompt="a red boat")]
    whole, together = editor.alongside(request, edits)
    _, turned = editor.alongside(request, edits[::-1])
    assert [result.way for result in together] == ["alongside"] * 2
    for one, batched, again in zip(warm, together, turned[::-1], strict=True):
        assert torch.allclose(one.picture, batched.picture, atol=1e-4)
        assert torch.allclose(batched.picture, again.picture, atol=1e-4)
        assert torch.equal(batched.picture[..., ~batched.mask], whole.picture[..., ~batched.mask])


def test_the_same_edit_twice_is_the_same_bits(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY)
    editor.record(original, **SETTINGS)
    assert torch.equal(editor.edit(edited).picture, editor.edit(edited).picture)


def test_grow_and_feather_are_separate(original: Image.Image, edited: Image.Image) -> None:
    pipe = tiny_sdxl()
    results = {}
    for grow, feather in ((0, 0), (6, 0), (6, 4)):
        editor = SparseEditor(pipe, policy=MaskPolicy(0.02, grow, 0, feather, 8))
        own = to_tensor(editor.record(original, **SETTINGS))
        result = editor.edit(edited)
        results[grow, feather] = result
        assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])
    assert results[6, 0].mask.sum() > results[0, 0].mask.sum()
    assert torch.equal(results[6, 0].mask, results[6, 4].mask)
    assert not torch.equal(results[6, 0].picture, results[6, 4].picture)


def test_a_derived_mask_is_blended_over_its_margin_alone_and_a_drawn_one_not_at_all(
    original: Image.Image, edited: Image.Image
) -> None:
    results = {}
    for feather in (None, 0):
        editor = SparseEditor(tiny_sdxl(), policy=MaskPolicy(0.02, 6, 0, feather, 8))
        editor.record(original, **SETTINGS)
        derived = editor.edit(edited)
        results[feather] = derived, editor.edit(edited, mask=derived.plan.changed)
    soft, hard = results[None][0], results[0][0]
    assert torch.equal(soft.picture[..., soft.plan.changed], hard.picture[..., hard.plan.changed])
    margin = soft.mask & ~soft.plan.changed
    assert not torch.equal(soft.picture[..., margin], hard.picture[..., margin])
    assert torch.equal(results[None][1].picture, results[0][1].picture)


def test_composite_blends_only_inside() -> None:
    base, new = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:12, 4:12] = True
    soft = composite(base, new, mask, 3)
    assert torch.equal(soft[..., ~mask], base[..., ~mask])
    assert 0 < soft[0, 0, 4, 8] < soft[0, 0, 5, 8] < soft[0, 0, 8, 8] == 1
    assert torch.equal(composite(base, new, mask, 0)[0, 0], mask.float())


def test_no_difference_returns_the_original_and_says_so(original: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY)
    whole, results = editor.alongside(editor.request(original, **SETTINGS), [Edit(original)])
    assert torch.equal(results[0].picture, to_tensor(original))
    assert "nothing differs" in str(results[0].reason)
    assert whole.clock.total == 0


@pytest.mark.parametrize("warm", [True, False])
def test_a_huge_edit_runs_dense_and_says_so(warm: bool, original: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, break_even=0.3)
    request = editor.request(original, **SETTINGS)
    inverted = Image.fromarray(255 - np.asarray(original))
    if warm:
        editor.record_request(request)
        result = editor.edit(inverted)
    else:
        result = editor.alongside(request, [Edit(inverted)])[1][0]
    assert result.way == "dense"
    assert "ran dense" in str(result.reason)
    assert torch.allclose(result.picture, editor.dense(request, Edit(inverted)).picture, atol=1e-6)


def test_dabs_all_over_run_dense_where_as_many_sites_in_one_piece_run_thin(original: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=MaskPolicy(0.02, 0, 0, 0, 8))
    editor.record(original, **SETTINGS)
    scattered, whole = (torch.zeros(64, 96, dtype=torch.bool) for _ in range(2))
    scattered[::16, ::16] = True
    whole[:32, :48] = True
    pictures = [original.copy() for _ in range(2)]
    for picture, mask in zip(pictures, (scattered, whole), strict=True):
        picture.paste((200, 30, 30), mask=Image.fromarray(mask.numpy()))
    assert [editor.edit(picture).way for picture in pictures] == ["dense", "warm"]


def test_text_is_encoded_once_per_prompt(original: Image.Image, edited: Image.Image) -> None:
    pipe = tiny_sdxl()
    calls: list[object] = []
    pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    editor = SparseEditor(pipe, policy=POLICY)
    editor.record(original, **SETTINGS)
    recorded = len(calls)
    editor.edit(edited)
    assert len(calls) == recorded == 1
    editor.edit(edited, prompt="a boat")
    assert len(calls) == 2


def test_errors_are_sentences(original: Image.Image, edited: Image.Image, mask: torch.Tensor) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY)
    with pytest.raises(CacheError, match="call record"):
        editor.edit(edited)
    with pytest.raises(SettingsError, match="leave no step"):
        editor.request(original, steps=2, strength=0.3)
    with pytest.raises(SettingsError, match="unknown task"):
        editor.request(original, task="paint")
    request = editor.request(original, **SETTINGS)
    with pytest.raises(InputError, match=r"edited picture is 48x64, the original 96x64"):
        editor.dense(request, Edit(edited.crop((0, 0, 48, 64))))
    with pytest.raises(InputError, match="the mask is 96x63"):
        editor.dense(request, Edit(edited, mask[1:]))
    with pytest.raises(InputError, match="needs an edited picture"):
        editor.dense(request, Edit(mask=mask))
    with pytest.raises(SettingsError, match="task inpaint"):
        SparseEditor(tiny_sdxl(in_channels=9)).request(original, **SETTINGS)
    for task in ("prompt", "pan", "rotate"):
        with pytest.raises(SettingsError, match=f"this model was not made for {task}; use task sdedit"):
            SparseEditor(tiny_refiner()).request(original, **SETTINGS | {"task": task})


def test_an_interrupted_edit_leaves_the_model_as_it_was(original: Image.Image, edited: Image.Image) -> None:
    class InterruptedEditError(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if armed and done == 2:
            raise InterruptedEditError

    armed: list[bool] = []
    pipe = tiny_sdxl(EULER)
    editor = SparseEditor(pipe, policy=POLICY, on_step=stop)
    editor.record(original, **SETTINGS)
    before = editor.edit(edited).picture
    armed.append(True)
    with pytest.raises(InterruptedEditError):
        editor.edit(edited)
    armed.clear()
    assert not any("forward" in module.__dict__ for module in pipe.unet.modules())
    assert torch.equal(editor.edit(edited).picture, before)
