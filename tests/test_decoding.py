"""A VAE that overflows in float16 decodes again in float32, and says so; what no precision saves is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparsedit.editor import SparseEditor
from sparsedit.errors import ModelError
from sparsedit.plan import Edit
from sparsedit.settings import MaskPolicy
from sparsedit.tasks.decoding import sound
from tests.pipelines import tiny_sd15

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 3, "strength": 0.7, "guidance": 3.0, "seed": 7}
SAID = "black or no number in torch.float16, so it was decoded again in float32"


def half(overflows: bool) -> Any:
    """A pipeline in float32 but for its VAE, whose decoder goes through numbers that float16 does not hold."""
    pipe = tiny_sd15()
    decoder = pipe.vae.decoder
    if overflows:
        with torch.no_grad():
            decoder.conv_in.weight *= 3e5
            decoder.conv_in.bias *= 3e5
    pipe.vae.register_to_config(force_upcast=False)
    pipe.vae.to(torch.float16)
    decoder.conv_in.weight.data.clamp_(-6e4, 6e4)
    return pipe


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[20:34, 30:52] = (200, 30, 30)
    return Image.fromarray(pixels)


def test_an_overflow_is_decoded_in_float32_in_every_way_and_said(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(half(overflows=True), policy=POLICY)
    latents = torch.randn(1, 4, 8, 12)
    assert not editor.stages.decode(latents).isfinite().all()
    request = editor.request(original, **SETTINGS)
    editor.record_request(request)
    assert editor.stages.vae.encoder.conv_in.weight.dtype == torch.float16
    warm = editor.edit(edited)
    _, (together,) = editor.alongside(request, [Edit(edited)])
    dense = editor.dense(request, Edit(edited))
    for result in (warm, together, dense):
        assert result.picture.isfinite().all()
        assert SAID in str(result.reason)
    assert torch.allclose(warm.picture, together.picture, atol=2e-2)


@pytest.mark.parametrize("first", ["alongside", "dense"])
def test_the_first_overflow_may_come_in_any_way(first: str, original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(half(overflows=True), policy=POLICY)
    request = editor.request(original, **SETTINGS)
    if first == "dense":
        result = editor.dense(request, Edit(edited))
    else:
        result = editor.alongside(request, [Edit(edited)])[1][0]
    assert SAID in str(result.reason)
    assert result.picture.std() > 0.01


def test_an_overflow_in_an_edit_alone_leaves_the_recording_as_it_is(
    original: Image.Image, edited: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = SparseEditor(half(overflows=False), policy=POLICY)
    editor.record(original, **SETTINGS)
    plain = editor.edit(edited)
    assert plain.reason is None
    decode, broken = editor.stages.decode, [True]

    def once(latents: torch.Tensor) -> torch.Tensor:
        return decode(latents) * (float("nan") if broken and broken.pop() else 1)

    monkeypatch.setattr(editor.stages, "decode", once)
    saved = editor.edit(edited)
    assert SAID in str(saved.reason)
    assert saved.picture.isfinite().all()
    assert editor.stages.decoder_dtype == torch.float16
    assert torch.equal(editor.edit(edited).picture, plain.picture)


def test_a_vae_that_works_is_left_alone(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(half(overflows=False), policy=POLICY)
    dense = editor.dense(editor.request(original, **SETTINGS), Edit(edited))
    assert dense.reason is None
    assert editor.stages.decoder_dtype == torch.float16


def test_damaged_weights_and_latents_that_are_no_numbers_are_refused(
    original: Image.Image, edited: Image.Image
) -> None:
    pipe = half(overflows=False)
    pipe.vae.decoder.conv_out.bias.data[0] = float("nan")
    editor = SparseEditor(pipe, policy=POLICY)
    request = editor.request(original, **SETTINGS)
    with pytest.raises(ModelError, match="no picture, in float32 either; its weights may be damaged"):
        editor.dense(request, Edit(edited))
    pipe.unet.conv_out.bias.data[0] = float("inf")
    with pytest.raises(ModelError, match="latents that are not numbers; use --dtype bfloat16 or float32"):
        editor.dense(request, Edit(edited))


def test_sound_pictures() -> None:
    picture = torch.rand(2, 3, 4, 4) * 2 - 1
    assert sound(picture)
    assert not sound(torch.cat([picture, torch.full((1, 3, 4, 4), -1.0)]))
    picture[1, 0, 2, 2] = float("nan")
    assert not sound(picture)
