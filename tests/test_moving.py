"""Canvases that move: rows go where their pixels go, and nothing but the empty area changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForInpainting
from PIL import Image

from sparsedit.errors import CacheError, SettingsError
from sparsedit.images import load_image, to_tensor
from sparsedit.measure.clock import Clock
from sparsedit.measure.twin import Twin
from sparsedit.metrics.quality import Judge
from sparsedit.models.loading import empty_pipeline, load_pipeline
from sparsedit.moving import MovingEditor, plan_motion
from sparsedit.plan import Edit, Request
from sparsedit.schedule import Schedule
from sparsedit.settings import POLICIES, MaskPolicy
from sparsedit.sparse import (
    ActivationCache,
    Motion,
    MovedCache,
    SettlingCache,
    SitePyramid,
    record,
    renewing,
    sparse,
)
from sparsedit.stages import Stages
from sparsedit.tasks.canvas import Canvas, moved_picture, outpaint
from sparsedit.tasks.pan import pan
from sparsedit.tasks.rotate import turn
from sparsedit.ways import Dense
from tests.pipelines import ANCESTRAL, tiny_sd15, tiny_sdxl

ROOT = Path(__file__).parents[1]
POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 4, "strength": 1.0, "guidance": 3.0, "seed": 7}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


def test_a_pan_by_whole_sites_moves_every_row_as_it_is() -> None:
    map_ = torch.randn(2, 3, 8, 12)
    motion = Motion.pan((64, 96), 16, -8)
    moved = motion.move(map_)
    assert torch.equal(moved[..., :7, 2:], map_[..., 1:, :10])
    empty = motion.left_empty((8, 12))
    assert empty[7].all()
    assert empty[:, :2].all()
    assert empty.sum() == 12 + 14
    assert motion.exact((8, 12))
    assert not motion.exact((4, 6))


def test_turns_are_pillows() -> None:
    ramp = np.random.default_rng(1).integers(0, 256, (40, 56), dtype=np.uint8)
    picture = torch.from_numpy(ramp)[None, None].float()
    for angle in (7.0, -30.0, 180.0):
        turned = Motion.turn((40, 56), angle).move(picture, nearest=True)[0, 0].numpy()
        pillows = np.asarray(Image.fromarray(ramp).rotate(angle, Image.Resampling.NEAREST))
        seen = ~Motion.turn((40, 56), angle).left_empty((40, 56)).numpy()
        assert (turned == pillows)[seen].mean() > 0.99
    quarter = Motion.turn((40, 40), 90).move(picture[..., :40])
    assert torch.equal(quarter, picture[..., :40].rot90(1, (2, 3)))


def test_between_sites_four_are_weighed() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 8, 12).contiguous()
    moved = Motion((64, 96), [[1, 0], [0, 1]], [0, -4]).move(ramp)
    assert torch.allclose(moved[..., 1:], ramp[..., 1:] - 0.5)
    panned = Motion.pan((64, 96), 3, 0).move(ramp)
    assert torch.equal(panned, ramp)


def test_a_pan_between_sites_shifts_all_of_a_map_alike() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 8, 12).contiguous()
    for right, sites in ((4, 0), (5, 1), (12, 1), (20, 2), (28, 3)):
        moved = Motion.pan((64, 96), right, 0).move(ramp)
        assert torch.equal(moved[..., sites:], ramp[..., : 12 - sites])


def test_small_pans_add_up() -> None:
    """Each alone would round to nothing, or to a whole site."""
    ramp = torch.arange(12.0).expand(1, 1, 8, 12).contiguous()
    for step in (3, 5):
        moved = ramp
        for number in range(8):
            moved = Motion.pan((64, 96), step, 0, since=(number * step, 0)).move(moved)
        assert torch.equal(moved[..., step:], ramp[..., : 12 - step])


def test_a_moved_recording_that_was_written_to_answers_as_the_edit_did() -> None:
    unet = tiny_sd15().unet
    x, text = torch.randn(2, 4, 8, 16), torch.randn(2, 7, 32)
    cache = ActivationCache()
    with torch.no_grad(), record(unet, cache):
        unet(x, 5, text)
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, :2] = True
    view = SettlingCache(cache, Motion.pan((64, 128), 16, 0))
    with torch.inference_mode(), renewing(unet, view, SitePyramid.from_mask(mask)) as renewal:
        edited = unet(torch.randn(2, 4, 8, 16), 5, text).sample
    expected = {run: [each.clone() for each in memory.values] for run, memory in view.step(0).leaves.items()}
    view.settle()
    for run, memory in cache.step(0).leaves.items():
        assert all(map(torch.equal, memory.tensors, expected[run]))
    renewal.write()
    with torch.inference_mode(), sparse(unet, cache, SitePyramid.from_mask(torch.zeros_like(mask))):
        assert torch.equal(unet(x, 5, text).sample, edited)


@pytest.mark.parametrize("moments", [False, True])
def test_what_is_not_computed_again_is_the_recorded_output_moved(moments: bool) -> None:
    unet = tiny_sd15().unet
    x, text = torch.randn(2, 4, 8, 16), torch.randn(2, 7, 32)
    cache = ActivationCache()
    motion = Motion.pan((64, 128), 16, 0)
    with torch.no_grad(), record(unet, cache, moments=moments):
        y = unet(x, 5, text).sample
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, :2] = True
    with torch.no_grad(), sparse(unet, MovedCache(cache, motion), SitePyramid.from_mask(mask)):
        z = unet(torch.randn(2, 4, 8, 16), 5, text).sample
    assert torch.equal(z[..., 2:], y[..., :-2])


def test_moved_rows_are_those_of_the_moved_picture_where_a_model_treats_all_sites_alike() -> None:
    """A model without borders in reach: attention sees the same tokens in another order, 1x1 convolutions none."""
    unet = tiny_sdxl().unet
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            centre = module.weight.data[:, :, 1, 1].clone()
            module.weight.data.zero_()
            module.weight.data[:, :, 1, 1] = centre
    x, text = torch.randn(1, 4, 8, 16), torch.randn(1, 7, 64)
    added = {"text_embeds": torch.randn(1, 32), "time_ids": torch.ones(1, 6)}
    rolled = x.roll(4, 3)
    cache = ActivationCache()
    with torch.no_grad(), record(unet, cache):
        unet(x, 5, text, added_cond_kwargs=added)
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, :4] = True
    with torch.no_grad(), sparse(unet, MovedCache(cache, Motion.pan((64, 128), 32, 0)), SitePyramid.from_mask(mask)):
        thin = unet(rolled, 5, text, added_cond_kwargs=added).sample
    with torch.no_grad():
        dense = unet(rolled, 5, text, added_cond_kwargs=added).sample
    assert torch.allclose(thin, dense, atol=1e-5)


@pytest.mark.parametrize("strength", [0.8, 1.0])
@pytest.mark.parametrize("build", [tiny_sdxl, tiny_sd15], ids=["sdxl", "sd15"])
def test_on_a_canvas_that_stays_this_is_stock_inpainting(build: Any, strength: float, photo: Image.Image) -> None:
    pipe = build()
    stages, schedule = Stages(pipe), Schedule(5, strength, 3.0)
    cells = torch.zeros(8, 12, dtype=torch.bool)
    cells[2:5, 5:8] = True
    with torch.inference_mode():
        way = Dense(Clock(torch.device("cpu")))
        canvas = Canvas.of(stages, way, to_tensor(photo), 7)
        made, _ = outpaint(stages, way, canvas, cells, ["a house"], "", schedule, 7, lambda done, total: None)
    mask = Image.fromarray(cells.repeat_interleave(8, 0).repeat_interleave(8, 1).numpy().astype(np.uint8) * 255)
    inpainting = AutoPipelineForInpainting.from_pipe(pipe)
    inpainting.set_progress_bar_config(disable=True)
    stock = inpainting(
        prompt="a house", image=photo, mask_image=mask, height=64, width=96, num_inference_steps=5, strength=strength,
        guidance_scale=3.0, generator=torch.Generator().manual_seed(7), output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(made / 2 + 0.5, stock, atol=1e-5)


EDITS = {"pan": Edit(by=(16, 0)), "far": Edit(by=(-13, 9)), "rotate": Edit(angle=6.0)}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("build", [tiny_sdxl, lambda: tiny_sdxl(ANCESTRAL), tiny_sd15], ids=["sdxl", "sde", "sd15"])
def test_what_stays_visible_is_the_moved_photo(build: Any, name: str, photo: Image.Image) -> None:
    editor = MovingEditor(build(), policy=POLICY, break_even=1.0)
    editor.record(photo, task="rotate" if name == "rotate" else "pan", **SETTINGS)
    result = editor.apply(EDITS[name])
    kept = result.plan.picture[..., ~result.mask]
    assert (result.way, result.plan.mask_source) == ("warm", "motion")
    assert torch.equal(result.picture[..., ~result.mask], kept)
    assert not torch.allclose(result.picture[..., result.mask], result.plan.picture[..., result.mask], atol=1e-3)
    if name == "pan":
        assert torch.equal(result.picture[..., 16:], to_tensor(photo)[..., :-16])
    assert torch.equal(editor.apply(EDITS[name]).picture, result.picture)


SERIES = {"pan": [Edit(by=(8, 0)), Edit(by=(4, 0)), Edit(by=(0, -16))], "rotate": [Edit(angle=6.0), Edit(angle=-4.0)]}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("build", [tiny_sdxl, lambda: tiny_sdxl(ANCESTRAL)], ids=["sdxl", "sde"])
def test_motions_upon_each_other_start_from_the_last_ones_result(build: Any, name: str, photo: Image.Image) -> None:
    editor = MovingEditor(build(), policy=POLICY, break_even=1.0)
    editor.record(photo, task=name, **SETTINGS)
    alone = editor.apply(SERIES[name][0])
    shown = to_tensor(photo)
    for edit in SERIES[name]:
        before = editor.recorded
        assert before is not None
        result = editor.advance(edit)
        assert (result.way, result.passes) == ("warm", 2)
        motion = pan(edit.by, (64, 96)) if edit.by else turn(edit.angle, (64, 96))
        kept = moved_picture(shown, motion)
        assert torch.equal(result.picture[..., ~result.mask], kept[..., ~result.mask])
        dense = editor.dense(before.request, edit)
        assert torch.equal(dense.picture[..., ~result.mask], kept[..., ~result.mask])
        shown = result.picture
        if edit is SERIES[name][0]:
            assert torch.equal(alone.picture, result.picture)


def test_a_motion_that_is_interrupted_while_it_is_kept_leaves_no_half_recording(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = MovingEditor(tiny_sdxl(), policy=POLICY, break_even=1.0)
    editor.record(photo, task="pan", **SETTINGS)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsedit.sparse.renewal.Renewal.write", fail)
    with pytest.raises(KeyboardInterrupt):
        editor.advance(Edit(by=(8, 0)))
    with pytest.raises(CacheError, match="record the original again"):
        editor.apply(Edit(by=(8, 0)))


def test_a_large_motion_of_a_series_is_recorded_anew(photo: Image.Image) -> None:
    editor = MovingEditor(tiny_sdxl(), policy=POLICY, break_even=0.5)
    editor.record(photo, task="pan", **SETTINGS)
    large = editor.advance(Edit(by=(64, 0)))
    assert large.way == "dense"
    assert "recorded anew" in (large.reason or "")
    small = editor.advance(Edit(by=(8, 0)))
    assert small.way == "warm"
    assert torch.equal(small.picture[..., 8:], large.picture[..., :-8])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pan", "rotate"])
def test_three_motions_upon_each_other_are_close_to_the_dense_edits(name: str) -> None:
    editor = MovingEditor(load_pipeline("demo"))
    meadow = load_image(ROOT / "manifests" / "demo" / "meadow.png")
    prompt = "a pink house in a green meadow under snowy mountains by day"
    editor.record(meadow, task=name, prompt=prompt, steps=8, strength=1.0, guidance=3.0)
    edit = Edit(by=(16, 0)) if name == "pan" else Edit(angle=2.0)
    for _ in range(3):
        before = editor.recorded
        assert before is not None
        thin = editor.advance(edit)
        dense = editor.dense(before.request, edit)
        inside = {"inside": thin.plan.changed.numpy()}
        scores = Judge(editor.stages.device).fidelity(thin.image, dense.image, inside)
        assert scores["inside"]["psnr"] > 26


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pan", "rotate"])
def test_what_comes_into_view_is_close_to_the_dense_edits(name: str) -> None:
    editor = MovingEditor(load_pipeline("demo"))
    meadow = load_image(ROOT / "manifests" / "demo" / "meadow.png")
    prompt = "a pink house in a green meadow under snowy mountains by day"
    request = editor.request(meadow, task=name, prompt=prompt, steps=8, strength=1.0, guidance=3.0)
    edit = Edit(by=(32, 0)) if name == "pan" else Edit(angle=5.0)
    editor.record_request(request)
    thin, dense = editor.apply(edit), editor.dense(request, edit)
    inside = {"inside": thin.plan.changed.numpy()}
    scores = Judge(editor.stages.device).fidelity(thin.image, dense.image, inside)
    assert scores["inside"]["psnr"] > 30


def test_norms_that_follow_an_edit_are_refused() -> None:
    with pytest.raises(SettingsError, match="norm original"):
        MovingEditor(tiny_sd15(), norm="updated")


@pytest.mark.slow
def test_a_strip_of_64_pixels_costs_less_than_15_percent_of_dense() -> None:
    pipe: Any = empty_pipeline("sdxl", "bfloat16", "cpu")
    stages, blank = Stages(pipe), torch.zeros(1, 3, 1024, 1024)
    request = Request(blank, "", "", "pan", Schedule(30, 1.0, 5.0), 0)
    motion = pan((64, 0), (1024, 1024))
    sites = plan_motion(request, Edit(by=(64, 0)), motion, POLICIES["tight"]).stage_sites
    twin = Twin(stages, 1024, 1024, 2)
    for stage in ("encoder", "unet", "decoder"):
        dense, thin = twin.dense(stage), twin.thin(stage, sites[stage])
        share = (thin.macs + thin.attention_macs) / (dense.macs + dense.attention_macs)
        assert share < 0.15, (stage, share)


def test_motions_that_are_none_are_refused() -> None:
    for by, words in (
        ((0, 0), "moves nothing"),
        ((96, 0), "leaves nothing"),
        ((0, -64), "leaves nothing"),
        (None, "--by"),
    ):
        with pytest.raises(SettingsError, match=words):
            pan(by, (64, 96))
    for angle, words in ((0.0, "turns nothing"), (720.0, "turns nothing"), (None, "--angle")):
        with pytest.raises(SettingsError, match=words):
            turn(angle, (64, 96))


def test_what_comes_into_view_mirrors_the_picture_until_it_is_made(photo: Image.Image) -> None:
    picture = to_tensor(photo)
    moved = moved_picture(picture, Motion.pan((64, 96), 5, 0))
    assert torch.equal(moved[..., 5:], picture[..., :-5])
    assert torch.allclose(moved[..., :5], picture[..., :5].flip(3), atol=1e-4)
