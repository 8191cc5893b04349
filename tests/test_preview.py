"""Edits by words whose mask a preview finds: what it costs, what it knows, and what it makes of the surroundings."""

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
from sparsedit.report.summary import stage_macs
from sparsedit.tasks.prompt import distance, mask_of
from sparsedit.tasks.words import preview_steps
from tests.pipelines import ANCESTRAL, tiny_sd15, tiny_sdxl
from tests.test_prompt_edits import NEW, POLICY, SETTINGS, SIZE, photo, rectangle

__all__ = ["photo"]
BUILDS = {"sdxl": tiny_sdxl, "sde": lambda: tiny_sdxl(ANCESTRAL), "sd15": tiny_sd15}


def editor_of(pipe: Any, **options: Any) -> PromptEditor:
    return PromptEditor(pipe, policy=POLICY, **{"break_even": 1.0, "all_over": np.inf, "capture_steps": 2, **options})


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_beside_a_preview_of_every_step_the_mask_holds_the_dense_edit(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its surroundings are then the dense edit's own, at every step."""
    monkeypatch.setattr("sparsedit.prompting.preview_steps", lambda *_: tuple(range(6)))
    editor = editor_of(build())
    editor.record(None, size=SIZE, **SETTINGS)
    result = editor.edit(prompt=NEW)
    dense = editor.dense(editor.request(None, size=SIZE, **SETTINGS), Edit(prompt=NEW))
    assert (result.way, result.plan.mask_source) == ("warm", "preview")
    assert result.latents is not None
    assert dense.latents is not None
    cells = result.plan.sites.level((8, 12)).position.view(8, 12) >= 0
    assert 0 < cells.sum() < 96
    assert torch.allclose(result.latents[..., cells], dense.latents[..., cells], atol=1e-4)
    assert not torch.allclose(result.latents[..., ~cells], dense.latents[..., ~cells], atol=1e-2)


@pytest.mark.parametrize("keep", [False, True])
def test_norms_that_follow_make_a_thin_run_of_everything_the_dense_one(keep: bool) -> None:
    everything = replace(POLICY, grow=SIZE[0])
    editor = PromptEditor(tiny_sdxl(), policy=everything, norm="updated", break_even=1.0, all_over=np.inf)
    request = editor.request(None, size=SIZE, **SETTINGS)
    editor.record_request(request)
    for prompt in (NEW, "a lake with a red house"):
        result = editor.edit(prompt=prompt, keep=keep)
        assert (result.way, result.plan.mask_source) == ("warm", "preview")
        assert result.mask.all()
        assert torch.allclose(result.picture, editor.dense(request, Edit(prompt=prompt)).picture, atol=1e-4)


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_outside_the_mask_the_original_stays(pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), capture_steps=3)
    own = to_tensor(editor.record(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS))
    result = editor.edit(prompt=NEW)
    assert (result.way, result.plan.mask_source, result.preview_calls, result.dense_calls) == ("warm", "preview", 3, 0)
    assert 0 < result.plan.edit_ratio < 1
    assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])
    assert not torch.allclose(result.picture[..., result.mask], own[..., result.mask], atol=1e-3)


def test_it_is_a_few_dense_steps_of_the_original_once_and_of_every_edit() -> None:
    pipe = tiny_sdxl()
    editor = editor_of(pipe, last_dense=1)
    calls: list[int] = []
    editor.record(None, size=SIZE, **SETTINGS)
    hook = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: calls.append(args[0][0, 0].numel()))
    for previews in (4, 2):
        assert editor.preview_calls(Edit(prompt=NEW)) == previews
        result = editor.edit(prompt=NEW)
        active = result.plan.sites.level((8, 12)).count
        assert calls == [*[96] * previews, *[active] * 5, 96]
        assert (result.preview_calls, result.dense_calls) == (2, 1)
        calls.clear()
    assert editor.preview_calls(Edit(prompt=NEW, mask=rectangle())) == 0
    assert editor.edit(prompt=NEW, mask=rectangle()).preview_calls == 0
    hook.remove()


def test_its_mask_is_where_both_previews_end_apart() -> None:
    """Held to the previews as the stock pipeline makes them of a few steps."""
    editor = editor_of(tiny_sdxl())
    editor.record(None, size=SIZE, **SETTINGS)
    result = editor.edit(prompt=NEW)
    recorded = editor.recorded
    assert recorded is not None
    assert recorded.preview is not None
    assert recorded.preview.kept == (0, 4)
    assert len(recorded.preview.cache) == 2
    fresh = editor_of(tiny_sdxl())
    fresh.record(None, size=SIZE, **SETTINGS | {"prompt": NEW})
    fresh.edit(prompt="a meadow")
    assert fresh.recorded is not None
    assert fresh.recorded.preview is not None
    mask = mask_of([distance(fresh.recorded.preview.latents, recorded.preview.latents)])
    pixels = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert torch.equal(result.plan.hole, pixels)


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_its_multiply_adds_are_those_that_ran(pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), capture_steps=3)
    with count_macs() as recording:
        recorded = editor.record_request(
            editor.request(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS)
        )
    with count_macs() as both:
        editor.edit(prompt=NEW)
    with count_macs() as count:
        result = editor.edit(prompt=NEW)
    counted = stage_entries(Counter(), editor, Done(recorded.request, recorded, result, None))
    # A preview projects its prompt once, which is counted for each of its steps.
    assert sum(stage["sparse"]["macs"] for stage in counted.values()) == pytest.approx(count.macs, rel=0.01)
    assert (result.way, counted["unet"]["sparse"]["calls"]) == ("warm", 9)
    recorded_macs = sum(stage["record"]["macs"] for stage in counted.values())
    assert recorded_macs == pytest.approx(recording.macs + both.macs - count.macs, rel=0.01)


def test_words_upon_words_take_the_last_edits_preview_for_their_originals() -> None:
    editor = editor_of(tiny_sd15(), last_dense=1)
    shown = to_tensor(editor.record(None, size=SIZE, **SETTINGS))
    alone = editor.edit(prompt=NEW)
    for prompt in (NEW, "a lake with a red house", "a lake with a blue boat"):
        result = editor.edit(prompt=prompt, keep=True)
        assert (result.way, result.plan.mask_source, result.preview_calls) == ("warm", "preview", 2)
        assert torch.equal(to_tensor(result.image)[..., ~result.mask], to_tensor(to_image(shown))[..., ~result.mask])
        if prompt == NEW:
            assert torch.equal(result.picture, alone.picture)
        shown = result.picture
    drawn = editor.edit(prompt=NEW, mask=rectangle(), keep=True)
    assert drawn.preview_calls == 0
    assert editor.edit(prompt="a meadow", keep=True).preview_calls == 4  # what was drawn has left none


def test_an_edit_that_is_too_large_pays_for_its_preview_all_the_same() -> None:
    for options, why in (({"break_even": 0.0}, "dense pass is faster"), ({"all_over": 0.0}, CHANGES_ALL)):
        editor = editor_of(tiny_sdxl(), **options)
        recorded = editor.record_request(editor.request(None, size=SIZE, **SETTINGS))
        result = editor.edit(prompt=NEW)
        assert (result.way, result.preview_calls) == ("dense", 2)
        assert why in (result.reason or "")
        assert len(result.clock.samples["unet"]) == 2
        unet = stage_entries(Counter(), editor, Done(recorded.request, recorded, result, None))["unet"]
        dense = editor.dense(recorded.request, Edit(prompt=NEW))
        assert torch.equal(result.picture[..., result.mask], dense.picture[..., result.mask])
        assert (unet["dense"], unet["sparse"]["calls"]) == (None, 8)
        dense_macs = stage_macs({"stages": {"unet": unet}}, "unet", "dense")
        assert dense_macs is not None
        assert unet["sparse"]["macs"] == unet["record"]["macs"] == dense_macs * 8 // 6


def test_a_schedule_that_cannot_be_shortened_has_its_mask_from_latents() -> None:
    pipe = tiny_sdxl(HeunDiscreteScheduler(beta_schedule="scaled_linear"))
    editor = editor_of(pipe)
    editor.record(None, size=SIZE, **SETTINGS)
    assert editor.edit(prompt=NEW).plan.mask_source == "latents"
    asked = editor_of(pipe, mask_from="preview")
    asked.record(None, size=SIZE, **SETTINGS)
    with pytest.raises(SettingsError, match="--scheduler"):
        asked.edit(prompt=NEW)


def test_a_recording_of_a_few_steps_has_its_masks_from_latents() -> None:
    editor = editor_of(tiny_sdxl())
    editor.record(None, size=SIZE, **SETTINGS, record_steps=4)
    assert editor.edit(prompt=NEW).plan.mask_source == "latents"
    asked = editor_of(tiny_sdxl(), mask_from="preview")
    asked.record(None, size=SIZE, **SETTINGS, record_steps=4)
    with pytest.raises(SettingsError, match="leave out coarse, record_steps"):
        asked.edit(prompt=NEW)


def test_where_the_steps_of_a_preview_lie() -> None:
    assert preview_steps(None, 0, 20) == (0, 5, 14)
    assert preview_steps(4, 0, 20) == (0, 3, 8, 14)
    assert preview_steps(5, 0, 20) == (0, 2, 5, 9, 14)
    assert len(preview_steps(None, 0, 50)) == 5
    assert preview_steps(None, 0, 4) == (0,)
    assert preview_steps(None, 10, 12) == (0,)
    for calls in range(2, 40):
        for count in range(1, calls):
            places = preview_steps(count, 0, calls)
            assert len(set(places)) == count
            assert list(places) == sorted(places)
            assert places[-1] < calls
    with pytest.raises(SettingsError, match="leave none of 4"):
        preview_steps(2, 2, 4)
