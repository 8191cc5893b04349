"""SDEdit with a model on pixels, without prompt, VAE or pipeline of diffusers' own: SIGE's unconditional case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler
from PIL import Image

from sparsedit import cli
from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter
from sparsedit.errors import SettingsError
from sparsedit.images import to_tensor
from sparsedit.plan import Edit
from sparsedit.records import read_records
from sparsedit.settings import MaskPolicy
from tests.families import FAMILIES

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"steps": 6, "strength": 0.5, "guidance": 0.0, "seed": 7}
PIPELINES = {
    "ddim": lambda: DDIMPipeline(FAMILIES["ddim"].build(), DDIMScheduler()),
    "ddpm": lambda: DDPMPipeline(FAMILIES["ddim"].build(), DDPMScheduler()),
    "euler": lambda: _with(EulerDiscreteScheduler()),
}


def _with(scheduler: Any) -> DDPMPipeline:
    pipe = DDPMPipeline(FAMILIES["ddim"].build(), DDPMScheduler())
    pipe.register_modules(scheduler=scheduler)
    return pipe


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((48, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[10:16, 20:30] = (200, 30, 30)
    return Image.fromarray(pixels)


def test_dense_is_the_loop_written_out(original: Image.Image, edited: Image.Image) -> None:
    pipe = PIPELINES["ddim"]()
    editor = SparseEditor(pipe, policy=POLICY)
    dense = editor.dense(editor.request(original, **SETTINGS), Edit(edited))
    scheduler, picture = DDIMScheduler(), to_tensor(edited)
    scheduler.set_timesteps(6)
    levels = scheduler.alphas_cumprod
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(7))
    x = levels[332].sqrt() * picture + (1 - levels[332]).sqrt() * noise
    for timestep, after in ((332, 166), (166, 0), (0, None)):
        with torch.no_grad():
            predicted = pipe.unet(x, timestep).sample
        now, then = levels[timestep], levels[after] if after is not None else torch.tensor(1.0)
        clean = ((x - (1 - now).sqrt() * predicted) / now.sqrt()).clamp(-1, 1)
        x = then.sqrt() * clean + (1 - then).sqrt() * predicted
    assert torch.allclose(dense.picture, x.clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("name", PIPELINES)
def test_thin_in_every_way(name: str, original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY)
    request = editor.request(original, **SETTINGS)
    recorded = editor.record_request(request)
    assert {stage: len(cache) for stage, cache in recorded.caches.items()} == {"unet": 3}
    warm = editor.edit(edited)
    whole, (together,) = editor.alongside(request, [Edit(edited)])
    outside = ~warm.mask
    assert (warm.way, together.way) == ("warm", "alongside")
    assert torch.equal(warm.picture[..., outside], recorded.picture[..., outside])
    assert torch.equal(together.picture[..., outside], whole.picture[..., outside])
    assert torch.allclose(warm.picture, together.picture, atol=1e-4)
    assert not torch.allclose(warm.picture[..., ~outside], recorded.picture[..., ~outside], atol=1e-3)
    assert set(warm.clock.samples) == {"unet", "blending"}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_thin_edit_of_everything_is_the_dense_one(name: str, original: Image.Image) -> None:
    editor = SparseEditor(PIPELINES[name](), policy=POLICY, break_even=1.0)
    request = editor.request(original, **SETTINGS)
    editor.record_request(request)
    everything = torch.ones(32, 48, dtype=torch.bool)
    warm = editor.edit(original, mask=everything)
    assert warm.way == "warm"
    assert torch.allclose(warm.picture, editor.dense(request, Edit(original, everything)).picture, atol=1e-4)


def test_the_unet_is_all_that_is_counted(original: Image.Image, edited: Image.Image) -> None:
    editor = SparseEditor(PIPELINES["ddim"](), policy=POLICY)
    request = editor.request(original, **SETTINGS)
    (stage,) = Counter().stages(editor, request).items()
    assert (stage[0], stage[1].calls) == ("unet", 3)
    assert stage[1].cost().macs > 0


def test_what_it_cannot_do_is_refused(original: Image.Image) -> None:
    editor = SparseEditor(PIPELINES["ddim"](), policy=POLICY)
    with pytest.raises(SettingsError, match="not made for inpaint; use task sdedit"):
        editor.request(original, task="inpaint", **SETTINGS)


def test_from_the_command_line(
    original: Image.Image, edited: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PIPELINES["ddim"]().save_pretrained("church")
    original.save("original.png")
    edited.save("edited.png")
    how = ("--steps", "4", "--strength", "0.5", "--guidance", "0", "--quiet", "-o", "run")
    assert cli.run(("edit", "original.png", "--edited", "edited.png", "-m", "./church", *how)) == 0
    (record,) = read_records(Path("run/records.jsonl"))
    assert record["status"] == "ok"
    assert record["fidelity"]["outside_equal"]
    assert list(record["stages"]) == ["unet"]
    assert record["stages"]["unet"]["sparse"]["macs"] < record["stages"]["unet"]["dense"]["macs"]
