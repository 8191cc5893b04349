"""Edits by words whose steps are left out in part: which are made, what they cost, and what they make of a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from PIL import Image

from sparsedit.engines.costs import Counter
from sparsedit.engines.entries import Done, stage_entries
from sparsedit.errors import SettingsError
from sparsedit.images import to_image, to_tensor
from sparsedit.measure.macs import count_macs
from sparsedit.plan import Edit
from sparsedit.prompting import CHANGES_ALL, PromptEditor
from sparsedit.sparse import Foretelling, dilate, leaving_out
from sparsedit.tasks.prompt import LOWEST, distance, mask_of
from sparsedit.tasks.words import FEWEST, first_steps, spread_steps
from tests.pipelines import ANCESTRAL, tiny_sd15, tiny_sdxl
from tests.test_prompt_edits import NEW, POLICY, SIZE, photo, rectangle
from tests.test_prompt_edits import SETTINGS as SHORT

__all__ = ["photo"]
SETTINGS: dict[str, Any] = SHORT | {"steps": 12}  # of which 0, 2, 4, 6, 8 are dense and 10 is thin
BUILDS = {"sdxl": tiny_sdxl, "sde": lambda: tiny_sdxl(ANCESTRAL), "sd15": tiny_sd15}


def editor_of(pipe: Any, **options: Any) -> PromptEditor:
    return PromptEditor(pipe, **{"policy": POLICY, "break_even": 1.0, "all_over": np.inf, **options})


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_thin_run_of_everything_is_a_dense_one_that_leaves_the_same_steps_out(build: Any) -> None:
    """With norms that follow; held to stock text-to-image whose UNet is asked for those steps alone."""
    editor = editor_of(build(), policy=replace(POLICY, grow=SIZE[0]), norm="updated")
    own = to_tensor(editor.record(None, size=SIZE, **SETTINGS))
    recorded = editor.recorded
    assert recorded is not None
    result = editor.edit(prompt=NEW)
    assert (result.way, result.plan.mask_source, result.left_out_calls) == ("warm", "spread", 6)
    assert result.mask.all()
    made = Foretelling(recorded.caches["unet"], spread_steps(None, 0, 12).made)
    with leaving_out(editor.stages.unet, made):
        dense = editor.dense(recorded.request, Edit(prompt=NEW))
    assert torch.allclose(result.picture, dense.picture, atol=1e-4)
    assert not torch.allclose(result.picture, own, atol=1e-2)


def test_the_mask_is_where_the_run_has_come_apart_after_its_last_dense_step() -> None:
    editor = editor_of(tiny_sdxl())
    editor.record(None, size=SIZE, **SETTINGS)
    recorded = editor.recorded
    assert recorded is not None
    assert recorded.trajectory is not None
    result = editor.edit(prompt=NEW)
    passed: list[torch.Tensor] = []

    def note(latents: torch.Tensor) -> None:
        passed.append(latents)

    foretelling = Foretelling(recorded.caches["unet"], spread_steps(None, 0, 12).made)
    hook = editor.stages.unet.register_forward_pre_hook(lambda _, args, kwargs: note(args[0]), with_kwargs=True)
    with leaving_out(editor.stages.unet, foretelling):
        editor.dense(recorded.request, Edit(prompt=NEW))
    hook.remove()
    assert len(passed) == 12
    scaled = editor.stages.pipe.scheduler.scale_model_input
    editor.stages.pipe.scheduler.set_timesteps(12)
    original = scaled(recorded.trajectory.latents[9], editor.stages.pipe.scheduler.timesteps[9])
    pixels = mask_of([distance(passed[9][:1], original)], LOWEST).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert 0 < pixels.sum() < pixels.numel()
    assert torch.equal(result.plan.changed, pixels)
    assert torch.equal(result.plan.hole, dilate(pixels, 8))  # one cell more than the policy's margin of none


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_outside_the_mask_the_original_stays(pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15())
    own = to_tensor(editor.record(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS))
    result = editor.edit(prompt=NEW)
    assert (result.way, result.dense_calls, result.left_out_calls) == ("warm", 5, 6)
    assert 0 < result.plan.edit_ratio < 1
    assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])
    assert not torch.allclose(result.picture[..., result.mask], own[..., result.mask], atol=1e-3)


@pytest.mark.parametrize("keep", [False, True])
def test_which_calls_are_made(keep: bool) -> None:
    pipe = tiny_sdxl()
    editor = editor_of(pipe, last_dense=3, capture_steps=2)
    calls: list[int] = []
    editor.record(None, size=SIZE, **SETTINGS)
    hook = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: calls.append(args[0][0, 0].numel()))
    result = editor.edit(prompt=NEW, keep=keep)
    active = result.plan.sites.level((8, 12)).count
    assert calls == [96, 96, active, active, active, 96, 96, 96]  # 0, 2; 4, 6, 8; 9, 10, 11
    assert (result.dense_calls, result.left_out_calls) == (5, 4)
    calls.clear()
    drawn = editor.edit(prompt="a lake", mask=rectangle(), keep=keep)
    hook.remove()
    active = drawn.plan.sites.level((8, 12)).count
    assert calls == [*[active] * 5, 96, 96, 96]
    assert (drawn.way, drawn.dense_calls, drawn.left_out_calls) == ("warm", 3, 4)


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
@pytest.mark.parametrize("masked", [False, True])
def test_its_multiply_adds_are_those_that_ran(masked: bool, pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15())
    recorded = editor.record_request(
        editor.request(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS)
    )
    with count_macs() as count:
        result = editor.edit(prompt=NEW, mask=rectangle() if masked else None)
    counted = stage_entries(Counter(), editor, Done(recorded.request, recorded, result, None))
    assert (result.way, counted["unet"]["sparse"]["calls"]) == ("warm", 6)
    # A run projects its prompt once, which is counted for every dense step.
    assert sum(stage["sparse"]["macs"] for stage in counted.values()) == pytest.approx(count.macs, rel=0.01)
    assert sum(stage["sparse"]["attention_macs"] for stage in counted.values()) == pytest.approx(
        count.attention_macs, rel=0.01
    )


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_words_upon_words_start_from_the_last_ones_result(pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), last_dense=1)
    shown = to_tensor(editor.record(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS))
    alone = editor.edit(prompt=NEW)
    recorded = editor.recorded
    assert recorded is not None
    before = recorded.nbytes
    for prompt in (NEW, "a lake with a red house", "a lake with a blue boat"):
        result = editor.edit(prompt=prompt, keep=True)
        assert (result.way, result.plan.mask_source, result.left_out_calls) == ("warm", "spread", 5)
        assert torch.equal(to_tensor(result.image)[..., ~result.mask], to_tensor(to_image(shown))[..., ~result.mask])
        if prompt == NEW:
            # But for the rounding of a row by itself, which an inverted picture's steps make larger.
            assert torch.allclose(result.picture, alone.picture, atol=1e-2 if pictured else 1e-4)
        shown = result.picture
    drawn = editor.edit(prompt=NEW, mask=rectangle(), keep=True)
    assert (drawn.way, drawn.left_out_calls) == ("warm", 5)
    kept = editor.recorded
    assert kept is not None
    assert kept.nbytes < before
    leaves = [bool(step.leaves) for step in kept.caches["unet"].steps]
    assert leaves == [step in spread_steps(None, 1, 12).made for step in range(12)]


def test_a_series_leaves_the_answers_that_were_foretold() -> None:
    """With norms that follow and masks of everything, a second edit starts where the first one's run has been."""
    editor = editor_of(tiny_sdxl(), policy=replace(POLICY, grow=SIZE[0]), norm="updated")
    editor.record(None, size=SIZE, **SETTINGS)
    recorded = editor.recorded
    assert recorded is not None
    foretelling = Foretelling(recorded.caches["unet"], spread_steps(None, 0, 12).made)
    editor.edit(prompt=NEW)  # which leaves the recording as it is
    with leaving_out(editor.stages.unet, foretelling):
        editor.dense(recorded.request, Edit(prompt=NEW))
    editor.edit(prompt=NEW, keep=True)
    kept = editor.recorded
    assert kept is not None
    assert sorted(foretelling.told) == [1, 3, 5, 7, 9, 11]
    for step, told in foretelling.told.items():
        for ours, theirs in zip(kept.caches["unet"].step(step).outputs, told, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("why", [CHANGES_ALL, "dense pass is faster"])
def test_an_edit_that_stays_dense_leaves_the_same_steps_out(why: str, keep: bool) -> None:
    editor = editor_of(tiny_sdxl(), **({"all_over": 0.0} if why == CHANGES_ALL else {"break_even": 0.0}))
    recorded = editor.record_request(editor.request(None, size=SIZE, **SETTINGS))
    foretelling = Foretelling(recorded.caches["unet"], spread_steps(None, 0, 12).made)
    with leaving_out(editor.stages.unet, foretelling):
        dense = editor.dense(recorded.request, Edit(prompt=NEW))
    result = editor.edit(prompt=NEW, keep=keep)
    assert (result.way, result.left_out_calls) == ("dense", 6)
    assert why in (result.reason or "")
    # Alone, a row's answer is rounded in another way than beside another one.
    assert torch.allclose(result.picture[..., result.mask], dense.picture[..., result.mask], atol=0 if keep else 1e-4)
    unet = stage_entries(Counter(), editor, Done(recorded.request, recorded, result, None))["unet"]
    assert (unet["dense"], unet["sparse"]["calls"]) == (None, 6)
    # Half of the calls, and of the first, unless it is kept, half of the rows.
    assert unet["sparse"]["macs"] == unet["record"]["macs"] * (12 if keep else 11) // 24
    assert editor.edit(prompt="a meadow with a boat", mask=rectangle(), keep=keep).way != "none"


def test_schedulers_that_cannot_be_shortened_have_steps_left_out_too() -> None:
    editor = editor_of(tiny_sdxl(HeunDiscreteScheduler(beta_schedule="scaled_linear")))
    own = to_tensor(editor.record(None, size=SIZE, **SHORT))
    result = editor.edit(prompt=NEW)
    assert (result.way, result.plan.mask_source, result.left_out_calls) == ("warm", "spread", 5)  # of 11 calls
    assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])


def test_short_schedules_and_recordings_of_a_few_steps_have_their_masks_from_latents() -> None:
    short = editor_of(tiny_sdxl())
    short.record(None, size=SIZE, **SHORT)
    assert short.edit(prompt=NEW).plan.mask_source == "latents"
    few = editor_of(tiny_sdxl())
    few.record(None, size=SIZE, **SETTINGS, record_steps=4)
    assert few.edit(prompt=NEW).plan.mask_source == "latents"
    asked = editor_of(tiny_sdxl(), mask_from="spread")
    asked.record(None, size=SIZE, **SETTINGS, record_steps=4)
    with pytest.raises(SettingsError, match="leave out coarse, record_steps"):
        asked.edit(prompt=NEW)
    asked.record(None, size=SIZE, **SHORT)
    assert asked.edit(prompt=NEW).plan.mask_source == "spread"


def test_how_a_schedules_steps_are_shared_out() -> None:
    shares = spread_steps(None, 0, 20)
    assert (shares.dense, shares.thin, shares.found) == ((0, 3, 6, 9, 12, 15), (18,), 16)
    shares = spread_steps(None, 0, 50)
    assert (shares.dense, shares.thin, shares.found) == ((0, 7, 14, 21, 28, 35), (42, 49), 36)
    assert spread_steps(None, 0, 14).dense == (0, 2, 4, 6, 8, 10)
    assert (spread_steps(4, 2, 20).dense, spread_steps(4, 2, 20).thin) == ((0, 3, 6, 9), (12, 15))
    assert shares.masked().thin == (0, 7, 14, 21, 28, 35, 42, 49)
    assert first_steps(None, 5, 20).dense == (0, 1)
    assert first_steps(None, 5, 20).thin == tuple(range(2, 15))
    assert not first_steps(None, 5, 20).leave_out
    for calls in range(2, 60):
        for last_dense in range(calls - 1):
            for asked in (None, *range(1, calls - last_dense)):
                shares = spread_steps(asked, last_dense, calls)
                steps = [*shares.dense, *shares.thin, *range(shares.end, calls)]
                assert steps == sorted(shares.made)
                assert steps[0] == 0
                assert shares.thin
                assert len(shares.dense) == (asked or len(shares.dense)) > 0
                assert shares.found == shares.dense[-1] + 1
                assert shares.end == calls - last_dense
        assert spread_steps(None, 0, calls).leave_out == (calls > 2)
    assert len(spread_steps(None, 0, FEWEST).made) == 4
    with pytest.raises(SettingsError, match="leave none of 4"):
        spread_steps(2, 2, 4)
