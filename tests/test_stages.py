"""A pipeline in stages paints what the stock pipeline paints, whatever its layout, thinly run as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DDPMPipeline,
    DDPMScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
)
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.errors import ModelError
from sparsedit.images import to_tensor
from sparsedit.plan import Edit
from sparsedit.schedule import Schedule
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import SitePyramid
from sparsedit.stages import Stages
from tests.pipelines import DDIM, tiny_refiner, tiny_sd15, tiny_sd21, tiny_sdxl, tiny_sdxs, tiny_ssd

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
GUIDED = Schedule(steps=5, strength=0.8, guidance=3.0)
ONE_STEP = Schedule(steps=1, strength=1.0, guidance=0.0)
LAYOUTS: dict[str, tuple[Callable[[], Any], Schedule]] = {
    "sdxl": (tiny_sdxl, GUIDED),
    "sdxl, tiny VAE": (lambda: tiny_sdxl(tiny_vae=True), GUIDED),
    "ssd-1b": (tiny_ssd, GUIDED),
    "refiner": (tiny_refiner, GUIDED),
    "sd15": (tiny_sd15, GUIDED),
    "sd15, PNDM": (lambda: tiny_sd15(scheduler=PNDMScheduler.from_config(DDIM.config, skip_prk_steps=True)), GUIDED),
    "sd15, tiny VAE": (lambda: tiny_sd15(tiny_vae=True), GUIDED),
    "sd21": (tiny_sd21, GUIDED),
    "sdxs": (tiny_sdxs, ONE_STEP),
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


def settings(schedule: Schedule) -> dict[str, Any]:
    how = {"steps": schedule.steps, "strength": schedule.strength, "guidance": schedule.guidance}
    return {"prompt": "a house", "seed": 7} | how


@pytest.mark.parametrize("name", LAYOUTS)
def test_dense_is_the_stock_pipelines_own_picture(name: str, original: Image.Image, edited: Image.Image) -> None:
    build, schedule = LAYOUTS[name]
    pipe = build()
    editor = SparseEditor(pipe, policy=POLICY)
    dense = editor.dense(editor.request(original, **settings(schedule)), Edit(edited))
    stock = AutoPipelineForImage2Image.from_pipe(pipe)(
        prompt="a house",
        image=edited,
        num_inference_steps=schedule.steps,
        strength=schedule.strength,
        guidance_scale=schedule.guidance,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    assert stock.std() > 0.01
    assert torch.allclose(dense.picture / 2 + 0.5, stock, atol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_thin_edit_of_everything_is_the_dense_one(name: str, original: Image.Image) -> None:
    build, schedule = LAYOUTS[name]
    editor = SparseEditor(build(), policy=POLICY, break_even=1.0)
    request = editor.request(original, **settings(schedule))
    editor.record_request(request)
    everything = torch.ones(64, 96, dtype=torch.bool)
    warm = editor.edit(original, mask=everything)
    dense = editor.dense(request, Edit(original, everything))
    assert warm.way == "warm"
    assert torch.allclose(warm.picture, dense.picture, atol=1e-4)


def test_scattered_sites_reach_further_than_as_many_in_one_piece() -> None:
    stages = Stages(tiny_sdxl())  # of two resolutions, latents of 8x12 and 4x6 here
    scattered, whole = (torch.zeros(64, 96, dtype=torch.bool) for _ in range(2))
    scattered[::16, ::16] = True  # one latent site of every four
    whole[:32, :48] = True  # a quarter in one piece
    for mask, finest, coarsest in ((scattered, 0.25, 1.0), (whole, 0.25, 0.25)):
        sites = SitePyramid.from_mask(mask)
        assert sites.fraction((8, 12)) == finest
        assert stages.reach(sites) == (finest + coarsest) / 2
    assert stages.reach(SitePyramid.from_mask(torch.zeros(64, 96, dtype=torch.bool))) == 0
    assert stages.reach(SitePyramid.from_mask(torch.ones(64, 96, dtype=torch.bool))) == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_thin_edit_keeps_the_originals_own_picture_outside(
    name: str, original: Image.Image, edited: Image.Image
) -> None:
    build, schedule = LAYOUTS[name]
    editor = SparseEditor(build(), policy=POLICY)
    own = to_tensor(editor.record(original, **settings(schedule)))
    result = editor.edit(edited)
    outside = ~result.mask
    assert result.way == "warm"
    assert torch.equal(to_tensor(result.image)[..., outside], own[..., outside])
    # One step from pure noise all but forgets what it starts from.
    if schedule is not ONE_STEP:
        assert (result.picture[..., result.mask] - own[..., result.mask]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [(DDIM, 4), (PNDMScheduler.from_config(DDIM.config, skip_prk_steps=True), 5), (HeunDiscreteScheduler(), 7)],
)
def test_calls_are_those_the_pipeline_makes(scheduler: Any, calls: int, original: Image.Image) -> None:
    pipe = tiny_sd15(scheduler=scheduler)
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    pipe.unet.register_forward_hook(count)
    totals: list[tuple[int, int]] = []
    editor = SparseEditor(pipe, on_step=lambda done, total: totals.append((done, total)))
    editor.dense(editor.request(original, **settings(GUIDED)), Edit(original, torch.ones(64, 96, dtype=torch.bool)))
    assert Stages(pipe).calls(GUIDED) == calls == counted
    assert totals == [(step, calls) for step in range(1, calls + 1)]


def test_a_pipeline_without_a_text_encoder_is_refused_by_name() -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    pipe = DDPMPipeline(UNet2DModel(block_out_channels=(32, 32), **blocks), DDPMScheduler())
    with pytest.raises(ModelError, match="DDPMPipeline cannot be edited with: it needs a UNet, a VAE and a text"):
        Stages(pipe)
