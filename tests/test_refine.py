"""Base and refiner as two stages of one edit: diffusers' own two pipelines one after the other, both thin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter
from sparsedit.errors import SettingsError
from sparsedit.plan import Edit
from sparsedit.schedule import Schedule
from sparsedit.settings import MaskPolicy
from sparsedit.stages import Stages
from sparsedit.tasks.refine import parts
from tests.pipelines import ANCESTRAL, EULER, controlled, tiny_refiner, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 10, "strength": 0.6, "guidance": 3.0, "seed": 7}


def refining(scheduler: Any = EULER, **options: Any) -> SparseEditor:
    base, refiner = tiny_sdxl(scheduler), tiny_refiner()
    refiner.register_modules(scheduler=type(scheduler).from_config(scheduler.config))
    return SparseEditor(base, policy=POLICY, refiner=refiner, **options)


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[20:34, 30:52] = (200, 30, 30)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("scheduler", [EULER, ANCESTRAL], ids=["euler", "ancestral"])
def test_dense_is_the_two_stock_pipelines_in_turn(scheduler: Any, original: Image.Image, edited: Image.Image) -> None:
    editor = refining(scheduler)
    assert editor.refiner is not None
    dense = editor.dense(editor.request(original, refine_from=0.8, **SETTINGS), Edit(edited))
    base = StableDiffusionXLImg2ImgPipeline(**editor.stages.pipe.components, add_watermarker=False)
    finish = editor.refiner.pipe
    noise = torch.Generator().manual_seed(7)
    shared = {"prompt": "a house", "num_inference_steps": 10, "guidance_scale": 3.0, "generator": noise}
    latents = base(image=edited, strength=0.6, denoising_end=0.8, output_type="latent", **shared).images
    latents = finish(image=latents, denoising_start=0.8, output_type="latent", **shared).images
    picture = editor.stages.decode(latents)
    assert picture.std() > 0.01
    assert torch.allclose(dense.picture, picture, atol=1e-5)
    without = SparseEditor(editor.stages.pipe, policy=POLICY)
    alone = without.dense(without.request(original, **SETTINGS), Edit(edited))
    assert not torch.allclose(dense.picture, alone.picture, atol=1e-3)


def test_both_stages_are_thin_in_every_way(original: Image.Image, edited: Image.Image) -> None:
    editor = refining()
    request = editor.request(original, **SETTINGS)
    recorded = editor.record_request(request)
    assert (len(recorded.caches["unet"]), len(recorded.caches["refiner"])) == (4, 2)
    warm = editor.edit(edited)
    whole, (together,) = editor.alongside(request, [Edit(edited)])
    outside = ~warm.mask
    assert torch.equal(warm.picture[..., outside], recorded.picture[..., outside])
    assert torch.allclose(warm.picture, together.picture, atol=1e-4)
    for clock in (recorded.clock, warm.clock, whole.clock, together.clock):
        assert clock.seconds("refiner") > 0
    costs = Counter().stages(editor, request)
    assert [(stage, cost.calls) for stage, cost in costs.items()] == [
        ("text", 3), ("encoder", 1), ("unet", 4), ("refiner", 2), ("decoder", 1),
    ]  # fmt: skip
    for stage in ("unet", "refiner"):
        assert costs[stage].cost(warm.plan.stage_sites[stage]).macs < 0.6 * costs[stage].cost().macs


def test_a_thin_edit_of_everything_is_the_dense_one(original: Image.Image) -> None:
    editor = refining(break_even=1.0)
    request = editor.request(original, **SETTINGS)
    editor.record_request(request)
    everything = torch.ones(64, 96, dtype=torch.bool)
    warm = editor.edit(original, mask=everything)
    assert warm.way == "warm"
    assert torch.allclose(warm.picture, editor.dense(request, Edit(original, everything)).picture, atol=1e-4)


def test_a_controlnet_guides_the_base_alone(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(controlled(tiny_sdxl()), policy=POLICY, refiner=tiny_refiner())
    recorded = editor.record_request(editor.request(original, **SETTINGS))
    assert {stage: len(cache) for stage, cache in recorded.caches.items()} == {
        "encoder": 1, "unet": 4, "controlnet": 4, "refiner": 2, "decoder": 1,
    }  # fmt: skip
    assert editor.edit(edited).way == "warm"


def test_what_cannot_be_refined_is_refused(original: Image.Image) -> None:
    editor = refining()
    with pytest.raises(SettingsError, match=r"from 0.3 on leaves the base no step.*more than 0.4"):
        editor.request(original, refine_from=0.3, **SETTINGS)
    with pytest.raises(SettingsError, match="leaves the refiner no step"):
        editor.request(original, refine_from=0.99, **SETTINGS)
    with pytest.raises(SettingsError, match="a refiner goes with task sdedit, not with inpaint"):
        editor.request(original, task="inpaint", **SETTINGS)
    with pytest.raises(SettingsError, match="StableDiffusionPipeline cannot be the base of two stages"):
        parts(Stages(tiny_sd15()), Stages(tiny_refiner()), 0.8, Schedule(10, 0.6, 3.0))
