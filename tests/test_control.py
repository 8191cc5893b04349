"""Edits with a ControlNet: the stock ControlNet pipelines' own pictures, thin in the ControlNet as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLControlNetImg2ImgPipeline, StableDiffusionXLControlNetInpaintPipeline
from diffusers.pipelines import StableDiffusionControlNetImg2ImgPipeline
from PIL import Image

from sparsedit.canny import canny
from sparsedit.control import control_map
from sparsedit.editor import SparseEditor
from sparsedit.errors import ModelError
from sparsedit.images import to_tensor
from sparsedit.measure.clock import Clock
from sparsedit.plan import Edit, Request, plan_edit
from sparsedit.schedule import Schedule
from sparsedit.settings import MaskPolicy
from tests.pipelines import controlled, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 3, "strength": 0.7, "guidance": 3.0, "seed": 7}
STOCK = {"sdxl": StableDiffusionXLControlNetImg2ImgPipeline, "sd15": StableDiffusionControlNetImg2ImgPipeline}


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {"sdxl": controlled(tiny_sdxl()), "sd15": controlled(tiny_sd15())}


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[20:34, 30:52] = (200, 30, 30)
    return Image.fromarray(pixels)


def stock_arguments() -> dict[str, Any]:
    return {
        "prompt": "a house",
        "num_inference_steps": 3,
        "strength": 0.7,
        "guidance_scale": 3.0,
        "controlnet_conditioning_scale": 0.6,
        "generator": torch.Generator().manual_seed(7),
        "output_type": "pt",
    }


@pytest.mark.parametrize("name", STOCK)
def test_dense_is_the_stock_controlnet_pipelines_own_picture(
    name: str, pipes: dict[str, Any], original: Image.Image, edited: Image.Image
) -> None:
    editor = SparseEditor(pipes[name], policy=POLICY)
    dense = editor.dense(editor.request(original, control_scale=0.6, **SETTINGS), Edit(edited))
    pipe = STOCK[name].from_pipe(pipes[name])
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(image=edited, control_image=canny(edited), **stock_arguments()).images
    assert torch.allclose(dense.picture / 2 + 0.5, stock, atol=1e-5)
    other = editor.dense(editor.request(original, control_scale=0.3, **SETTINGS), Edit(edited))
    assert not torch.allclose(dense.picture, other.picture, atol=1e-3)


def test_inpaint_dense_is_the_stock_controlnet_pipelines_inside(pipes: dict[str, Any], original: Image.Image) -> None:
    cells = torch.zeros(64, 96, dtype=torch.bool)
    cells[16:40, 40:64] = True
    editor = SparseEditor(pipes["sdxl"], policy=MaskPolicy(0.02, 0, 0, 0, 8))
    dense = editor.dense(editor.request(original, task="inpaint", control_scale=0.6, **SETTINGS), Edit(mask=cells))
    pipe = StableDiffusionXLControlNetInpaintPipeline.from_pipe(pipes["sdxl"])
    pipe.set_progress_bar_config(disable=True)
    mask = Image.fromarray(cells.numpy().astype(np.uint8) * 255)
    pictures = {"image": original, "mask_image": mask, "control_image": canny(original), "height": 64, "width": 96}
    stock = pipe(**pictures, **stock_arguments()).images
    assert torch.allclose((dense.generated / 2 + 0.5)[..., cells], stock[..., cells], atol=1e-5)


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_a_thin_edit_of_everything_is_the_dense_one(
    name: str, task: str, pipes: dict[str, Any], original: Image.Image
) -> None:
    editor = SparseEditor(pipes[name], policy=POLICY, break_even=1.0)
    everything = Edit(original, torch.ones(64, 96, dtype=torch.bool))
    if task == "inpaint":
        everything = Edit(mask=everything.mask)
    request = editor.request(original, task=task, **SETTINGS)
    recorded = editor.record_request(request)
    warm = editor.edit(everything.edited, mask=everything.mask)
    dense = editor.dense(request, everything)
    # Inpainting records another picture than it paints, so that its norms' statistics are others.
    assert warm.way == "warm"
    if task == "sdedit":
        assert torch.allclose(warm.picture, dense.picture, atol=1e-4)
    assert len(recorded.caches["controlnet"]) == len(recorded.caches["unet"]) == 2


@pytest.mark.parametrize("name", STOCK)
def test_alongside_is_warm_and_both_keep_the_outside(
    name: str, pipes: dict[str, Any], original: Image.Image, edited: Image.Image
) -> None:
    editor = SparseEditor(pipes[name], policy=POLICY)
    request = editor.request(original, **SETTINGS)
    own = editor.record_request(request).picture
    warm = editor.edit(edited)
    whole, (together,) = editor.alongside(request, [Edit(edited)])
    outside = ~warm.mask
    assert 0.1 < outside.float().mean() < 0.95
    assert torch.equal(warm.picture[..., outside], own[..., outside])
    assert torch.equal(together.picture[..., outside], whole.picture[..., outside])
    assert torch.allclose(warm.picture, together.picture, atol=1e-4)
    assert not torch.allclose(warm.picture[..., ~outside], own[..., ~outside], atol=1e-3)


def test_every_call_of_the_controlnet_is_a_sample_of_its_own(
    pipes: dict[str, Any], original: Image.Image, edited: Image.Image
) -> None:
    editor = SparseEditor(pipes["sd15"], policy=POLICY)
    request = editor.request(original, **SETTINGS)
    clocks = [
        editor.record_request(request).clock,
        editor.edit(edited).clock,
        editor.dense(request, Edit(edited)).clock,
    ]
    whole, (together,) = editor.alongside(request, [Edit(edited)])
    for clock in (*clocks, whole.clock, together.clock):
        assert len(clock.samples["controlnet"]) == 2
        assert clock.seconds("unet") > 0


def test_a_stage_within_another_is_taken_off_it() -> None:
    ticks = iter([0.0, 1.0, 3.0, 10.0, 11.0, 15.0])
    clock = Clock(torch.device("cpu"), now=lambda: next(ticks))
    model = torch.nn.Identity()
    with clock.stage("outer"), clock.calls("inner", model):
        model(torch.zeros(1))
        clock_between = dict(clock.samples)
    assert clock_between == {"inner": [2.0]}
    assert clock.samples == {"inner": [2.0], "outer": [8.0]}
    model(torch.zeros(1))
    assert clock.samples["inner"] == [2.0]


def test_edges_that_change_far_from_the_stroke_are_computed_too() -> None:
    """A faint line hangs together with a strong stroke: drawing the stroke makes all of the line an edge."""
    pixels = np.full((64, 96, 3), 100, np.uint8)
    pixels[32:, :] = 135  # a step of 140 on Canny's scale: between its thresholds
    strong = pixels.copy()
    strong[32:, 2:8] = 255
    request = _request(pixels)
    plan = plan_edit(request, Edit(Image.fromarray(strong)), POLICY)
    far = torch.zeros(64, 96, dtype=torch.bool)
    far[:, 40:] = True
    assert not (plan.changed & far).any()
    assert plan.control_changed is not None
    assert (plan.control_changed & far).any()
    assert bool((plan.hole | ~plan.control_changed).all())
    assert torch.equal(plan.blend, plan.hole)
    masked = plan_edit(request, Edit(Image.fromarray(strong), plan.changed), POLICY)
    assert torch.equal(masked.hole, plan.hole)
    assert torch.equal(masked.blend, plan.changed)


def test_differences_below_the_threshold_draw_no_edges() -> None:
    pixels = np.full((64, 96, 3), 100, np.uint8)
    pixels[32:, :] = 149
    fuzzy = pixels.copy()
    fuzzy[32:, 50:] += 2
    assert not torch.equal(
        control_map(to_tensor(Image.fromarray(pixels))), control_map(to_tensor(Image.fromarray(fuzzy)))
    )
    fuzzy[4:8, 4:8] = 0
    plan = plan_edit(_request(pixels), Edit(Image.fromarray(fuzzy)), POLICY)
    assert plan.control_changed is not None
    assert not plan.control_changed[:, 40:].any()


def _request(pixels: np.ndarray) -> Request:
    original = to_tensor(Image.fromarray(pixels))
    return Request(original, "", "", "sdedit", Schedule(3, 0.7, 3.0), 0, control_map(original))


def test_several_controlnets_are_refused(original: Image.Image, edited: Image.Image, pipes: dict[str, Any]) -> None:
    nets = [pipes["sdxl"].controlnet] * 2
    pipe = type(pipes["sdxl"])(**pipes["sdxl"].components | {"controlnet": nets})
    editor = SparseEditor(pipe, policy=POLICY)
    with pytest.raises(ModelError, match="takes one ControlNet, not a MultiControlNetModel"):
        editor.dense(editor.request(original, **SETTINGS), Edit(edited))
