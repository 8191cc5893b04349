"""Every scheduler by name, those with a history or noise of their own too: the same edits in every way."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.errors import SettingsError
from sparsedit.measure.twin import Twin
from sparsedit.models.loading import load_pipeline
from sparsedit.models.schedulers import SCHEDULERS, named_scheduler
from sparsedit.plan import Edit
from sparsedit.schedule import Schedule
from sparsedit.settings import MaskPolicy, Settings
from sparsedit.stages import Stages
from tests.pipelines import DDIM, EULER, SD_UNET, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 5, "strength": 0.8, "guidance": 3.0, "seed": 7}


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[20:34, 30:52] = (200, 30, 30)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_warm_and_alongside_are_one_and_with_a_full_mask_dense(
    name: str, original: Image.Image, edited: Image.Image
) -> None:
    editor = SparseEditor(tiny_sdxl(named_scheduler(name, EULER)), policy=POLICY, break_even=1.0)
    request = editor.request(original, **SETTINGS)
    own = editor.record_request(request).picture
    everything = Edit(original, torch.ones(64, 96, dtype=torch.bool))
    warm = [editor.edit(edited), editor.edit(original, mask=everything.mask)]
    whole, together = editor.alongside(request, [Edit(edited), everything])
    assert torch.allclose(whole.picture, own, atol=1e-4)
    for one, batched in zip(warm, together, strict=True):
        assert (one.way, batched.way) == ("warm", "alongside")
        assert torch.allclose(one.picture, batched.picture, atol=1e-4)
        assert torch.equal(one.picture[..., ~one.mask], own[..., ~one.mask])
        assert torch.equal(batched.picture[..., ~one.mask], whole.picture[..., ~one.mask])
    assert torch.allclose(warm[1].picture, editor.dense(request, everything).picture, atol=1e-4)


def test_settings_know_the_same_names() -> None:
    annotation = Settings.model_fields["scheduler"].annotation
    assert set(get_args(get_args(annotation)[0])) == set(SCHEDULERS)


def test_noise_levels_and_prediction_are_the_models_own() -> None:
    own = type(DDIM).from_config(DDIM.config, prediction_type="v_prediction")
    scheduler: Any = named_scheduler("euler-a", own)
    assert scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(scheduler.alphas_cumprod, own.alphas_cumprod)


def test_latents_are_not_clipped() -> None:
    assert "clip_sample" not in EULER.config
    assert named_scheduler("ddim", EULER).config["clip_sample"] is False
    assert named_scheduler("ddim", PNDMScheduler()).config["clip_sample"] is False


def test_a_name_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"unknown scheduler 'eular': use euler, .*did you mean 'euler'"):
        load_pipeline("demo", device="cpu", scheduler="eular")


def test_a_unet_that_takes_guidance_as_an_embedding_has_one_row_a_picture(
    original: Image.Image, edited: Image.Image
) -> None:
    """LCM's own UNets: the scale goes in as an embedding, and no negative prompt is run beside."""
    pipe = tiny_sd15(scheduler=LCMScheduler(beta_schedule="scaled_linear"))
    torch.manual_seed(0)
    pipe.register_modules(unet=UNet2DConditionModel(**SD_UNET, time_cond_proj_dim=16).eval())
    stages, schedule = Stages(pipe), Schedule(5, 0.8, 3.0)
    assert not stages.guided(schedule)
    assert stages.texts_per_prompt("", schedule) == 1
    batches: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: batches.append(args[0].shape[0]))
    editor = SparseEditor(pipe, policy=POLICY)
    request = editor.request(original, **SETTINGS)
    editor.record_request(request)
    assert set(batches) == {1}
    assert editor.edit(edited).way == "warm"
    twin = Twin(stages, 64, 96, 1)
    assert twin.calls["unet"][2]["timestep_cond"].shape == (1, 16)
    other = editor.dense(editor.request(original, **SETTINGS | {"guidance": 6.0}), Edit(edited))
    assert not torch.allclose(other.picture, editor.dense(request, Edit(edited)).picture, atol=1e-4)
