"""Pictures from control maps: stock text-to-image with a ControlNet, and edits of the lines alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline
from PIL import Image, ImageDraw

from sparsedit.canny import canny
from sparsedit.editor import SparseEditor
from sparsedit.errors import InputError, SettingsError
from sparsedit.images import to_image, to_tensor
from sparsedit.plan import Edit, plan_edit
from sparsedit.settings import MaskPolicy
from tests.pipelines import DEIS, controlled, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {
    "task": "control", "prompt": "a house", "steps": 3, "strength": 1.0, "guidance": 3.0, "seed": 7
}  # fmt: skip
ONE_STEP = SETTINGS | {"steps": 1, "guidance": 0.0}
STOCK = {"sdxl": StableDiffusionXLControlNetPipeline, "sd15": StableDiffusionControlNetPipeline}


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {
        "sdxl": controlled(tiny_sdxl()),
        "sd15": controlled(tiny_sd15()),
        "one-step": controlled(tiny_sd15(scheduler=DEIS, tiny_vae=True)),
    }


def photo(*boxes: tuple[int, int, int, int]) -> Image.Image:
    """Boxes of white on a grey canvas: edges along their borders, and none within."""
    image = Image.new("RGB", (96, 64), (90, 90, 90))
    for box in boxes:
        ImageDraw.Draw(image).rectangle(box, fill="white")
    return image


ORIGINAL = photo((8, 8, 24, 40))
EDITED = photo((8, 8, 24, 40), (48, 16, 72, 40))


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("source", ["photo", "map"])
def test_dense_is_the_stock_controlnet_pipelines_own_picture(name: str, source: str, pipes: dict[str, Any]) -> None:
    editor = SparseEditor(pipes[name], policy=POLICY)
    drawn = EDITED if source == "photo" else canny(EDITED)
    original = ORIGINAL if source == "photo" else canny(ORIGINAL)
    dense = editor.dense(editor.request(original, control_from=source, control_scale=0.6, **SETTINGS), Edit(drawn))
    pipe = STOCK[name].from_pipe(pipes[name])
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        prompt="a house", image=canny(EDITED), num_inference_steps=3, guidance_scale=3.0,
        controlnet_conditioning_scale=0.6, generator=torch.Generator().manual_seed(7), output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(dense.picture / 2 + 0.5, stock, atol=1e-5)


@pytest.mark.parametrize(("name", "settings"), [("sdxl", SETTINGS), ("sd15", SETTINGS), ("one-step", ONE_STEP)])
def test_only_what_the_changed_lines_enclose_is_computed(
    name: str, settings: dict[str, Any], pipes: dict[str, Any]
) -> None:
    editor = SparseEditor(pipes[name], policy=POLICY)
    own = to_tensor(editor.record(ORIGINAL, **settings))
    result = editor.edit(EDITED)
    assert (result.way, result.plan.mask_source) == ("warm", "difference")
    inside = torch.zeros(64, 96, dtype=torch.bool)
    inside[16:41, 48:73] = True
    assert result.mask[inside].all()
    assert result.mask.float().mean() < 0.2
    assert not result.plan.changed[28, 60]  # lines changed around it, not there
    assert torch.equal(to_tensor(to_image(result.picture))[..., ~result.mask], own[..., ~result.mask])
    assert (result.picture - own)[..., result.mask].abs().max() > 1e-3
    _, (together,) = editor.alongside(editor.request(ORIGINAL, **settings), [Edit(EDITED)])
    assert torch.allclose(together.picture, result.picture, atol=1e-4)


def test_lines_with_gaps_enclose_what_they_go_around(pipes: dict[str, Any]) -> None:
    lines = Image.new("RGB", (96, 64))
    ImageDraw.Draw(lines).rectangle((40, 16, 72, 48), outline="white")
    ImageDraw.Draw(lines).rectangle((54, 10, 58, 60), fill="black")  # two gaps of 5 px, grown by 3 from either side
    editor = SparseEditor(pipes["sd15"], policy=POLICY)
    request = editor.request(Image.new("RGB", (96, 64)), control_from="map", **SETTINGS)
    plan = plan_edit(request, Edit(lines), POLICY)
    assert not plan.changed[32, 56]
    assert plan.hole[16:49, 40:73].all()
    assert plan.hole.sum() == 39 * 39


def test_a_thin_edit_of_everything_is_the_dense_one(pipes: dict[str, Any]) -> None:
    policy = MaskPolicy(threshold=0.02, grow=96, level_dilation=0, feather=0, vae_margin=8)
    editor = SparseEditor(pipes["one-step"], policy=policy, break_even=1.0, norm="updated")
    request = editor.request(ORIGINAL, **ONE_STEP)
    editor.record_request(request)
    thin = editor.edit(EDITED)
    assert thin.way == "warm"
    assert torch.allclose(thin.picture, editor.dense(request, Edit(EDITED)).picture, atol=1e-4)


def test_the_same_lines_give_the_same_picture(pipes: dict[str, Any]) -> None:
    """Another colour without another edge changes nothing that the ControlNet is shown."""
    editor = SparseEditor(pipes["sd15"], policy=POLICY)
    own = to_tensor(editor.record(ORIGINAL, **SETTINGS))
    tinted = np.asarray(ORIGINAL).copy()
    tinted[50:60, 60:90] += 10
    result = editor.edit(Image.fromarray(tinted))
    assert result.way == "none"
    assert torch.equal(to_tensor(result.image), own)


def test_what_does_not_fit_is_refused(pipes: dict[str, Any]) -> None:
    editor = SparseEditor(pipes["sd15"], policy=POLICY)
    request = editor.request(ORIGINAL, **SETTINGS)
    with pytest.raises(InputError, match="must be the same"):
        editor.dense(request, Edit(EDITED.resize((64, 64))))
    with pytest.raises(InputError, match="control needs an edited picture"):
        editor.dense(request, Edit(mask=torch.ones(64, 96, dtype=torch.bool)))
    with pytest.raises(SettingsError, match="--controlnet"):
        SparseEditor(tiny_sd15()).request(ORIGINAL, **SETTINGS)
    with pytest.raises(SettingsError, match="strength 1"):
        editor.request(ORIGINAL, **SETTINGS | {"strength": 0.5})
