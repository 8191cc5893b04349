"""Edits by words: what the mask is made of, what the run keeps, and what stock text-to-image says of the dense one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image
from skimage.filters import threshold_otsu

from sparsedit.engines.costs import Counter
from sparsedit.engines.entries import Done, stage_entries
from sparsedit.errors import SettingsError
from sparsedit.images import to_image, to_tensor
from sparsedit.measure.macs import count_macs
from sparsedit.plan import Edit
from sparsedit.prompting import CHANGES_ALL, PromptEditor
from sparsedit.settings import MaskPolicy
from sparsedit.tasks.prompt import beyond, mask_of
from sparsedit.tasks.word_maps import WordMaps, new_tokens
from sparsedit.tasks.words import capture_steps, check_words
from tests.pipelines import ANCESTRAL, tiny_sd15, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=0, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {
    "task": "prompt", "prompt": "a meadow", "steps": 6, "strength": 1.0, "guidance": 3.0, "seed": 7
}  # fmt: skip
SIZE = (96, 64)
NEW = "a meadow with a red house"


def editor_of(pipe: Any, **options: Any) -> PromptEditor:
    return PromptEditor(
        pipe, policy=POLICY, **{"mask_from": "latents", "break_even": 1.0, "all_over": np.inf, **options}
    )


def rectangle() -> torch.Tensor:
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[16:40, 40:64] = True
    return mask


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("build", [tiny_sdxl, lambda: tiny_sdxl(ANCESTRAL), tiny_sd15], ids=["sdxl", "sde", "sd15"])
def test_dense_and_recorded_are_stock_text_to_image(build: Any) -> None:
    pipe = build()
    editor = editor_of(pipe)
    own = editor.record(None, size=SIZE, **SETTINGS)
    request = editor.request(None, size=SIZE, **SETTINGS)
    dense = editor.dense(request, Edit(prompt=NEW))
    stock = AutoPipelineForText2Image.from_pipe(pipe)
    stock.set_progress_bar_config(disable=True)
    for prompt, picture in (("a meadow", to_tensor(own)), (NEW, dense.picture)):
        expected = stock(
            prompt=prompt, width=96, height=64, num_inference_steps=6, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(7), output_type="pt",
        ).images  # fmt: skip
        assert torch.allclose(picture / 2 + 0.5, expected, atol=1 / 255)
    assert torch.allclose(dense.picture / 2 + 0.5, expected, atol=1e-5)


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_outside_the_mask_the_original_stays(pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), capture_steps=2)
    own = to_tensor(editor.record(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS))
    result = editor.edit(prompt=NEW)
    assert result.way == "warm"
    assert result.plan.mask_source == "latents"
    assert result.dense_calls == 2
    assert 0 < result.plan.edit_ratio < 1
    assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])
    assert not torch.allclose(result.picture[..., result.mask], own[..., result.mask], atol=1e-3)
    if pictured:
        assert torch.equal(own, to_tensor(photo))


def test_a_thin_run_of_everything_is_the_dense_one() -> None:
    """With norms that follow the edit, so that nothing of the original's run is read."""
    editor = editor_of(tiny_sdxl(), norm="updated")
    editor.record(None, size=SIZE, **SETTINGS)
    dense = editor.dense(editor.request(None, size=SIZE, **SETTINGS), Edit(prompt=NEW))
    thin = editor.edit(prompt=NEW, mask=torch.ones(64, 96, dtype=torch.bool))
    assert (thin.way, thin.plan.mask_source) == ("warm", "user")
    assert torch.allclose(thin.picture, dense.picture, atol=1e-4)


def test_an_inverted_picture_under_its_own_words_stays_on_its_trajectory(photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), norm="updated")
    recorded = editor.record_request(editor.request(photo, **SETTINGS))
    assert recorded.trajectory is not None
    assert len(recorded.trajectory.latents) == 7
    same = editor.edit(prompt="a meadow ,", mask=torch.ones(64, 96, dtype=torch.bool))
    again = editor.edit(prompt="a meadow ,", mask=torch.ones(64, 96, dtype=torch.bool))
    assert torch.equal(same.picture, again.picture)
    corrected = [float(each.abs().max()) for each in recorded.trajectory.corrections]
    assert len(corrected) == 6
    assert max(corrected) > 0


def test_the_last_steps_may_be_dense_again() -> None:
    pipe = tiny_sdxl()
    calls: list[int] = []

    def shape(_module: object, args: tuple[Any, ...]) -> None:
        calls.append(args[0].shape[2] * args[0].shape[3])

    editor = editor_of(pipe, capture_steps=1, last_dense=2)
    editor.record(None, size=SIZE, **SETTINGS)
    hook = pipe.unet.conv_in.register_forward_pre_hook(shape)
    result = editor.edit(prompt=NEW)
    hook.remove()
    active = result.plan.sites.level((8, 12)).count
    assert calls == [96, active, active, active, 96, 96]
    assert result.dense_calls == 3


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
@pytest.mark.parametrize("mask_from", ["latents", "attention"])
def test_words_upon_words_start_from_the_last_ones_result(pictured: bool, mask_from: str, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), capture_steps=2, last_dense=1, mask_from=mask_from)
    shown = to_tensor(editor.record(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS))
    alone = editor.edit(prompt=NEW)
    for prompt in (NEW, "a lake with a red house", "a lake with a blue boat"):
        before = editor.recorded
        assert before is not None
        result = editor.edit(prompt=prompt, keep=True)
        assert result.way == "warm"
        assert torch.equal(to_tensor(result.image)[..., ~result.mask], to_tensor(to_image(shown))[..., ~result.mask])
        if prompt == NEW:
            assert torch.equal(result.picture, alone.picture)
        dense = editor.dense(before.request, Edit(prompt=prompt))
        assert (dense.picture - result.picture)[..., result.mask].abs().max() > 0
        shown = result.picture
    with pytest.raises(SettingsError, match="change some of its words"):
        editor.edit(prompt="a lake with a blue boat")


def test_a_series_leaves_the_recording_of_what_it_made() -> None:
    """Dense steps and thin ones of everything, with norms that follow: what a recording of the new words holds."""
    mask = torch.ones(64, 96, dtype=torch.bool)
    editor, fresh = (editor_of(tiny_sdxl(), norm="updated", last_dense=2) for _ in range(2))
    editor.record(None, size=SIZE, **SETTINGS)
    result = editor.edit(prompt=NEW, mask=mask, keep=True)
    assert result.dense_calls == 2
    fresh.record(None, size=SIZE, **SETTINGS | {"prompt": NEW})
    assert editor.recorded is not None
    assert fresh.recorded is not None
    assert editor.recorded.trajectory is not None
    assert fresh.recorded.trajectory is not None
    for stage, cache in fresh.recorded.caches.items():
        for ours, theirs in zip(editor.recorded.caches[stage], cache, strict=True):
            assert ours.leaves.keys() == theirs.leaves.keys()
            for run, memory in theirs.leaves.items():
                for a, b in zip(ours.leaves[run].values, memory.values, strict=True):
                    assert torch.allclose(a, b, atol=1e-3), (stage, run)
    for a, b in zip(editor.recorded.trajectory.latents, fresh.recorded.trajectory.latents, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_large_edit_of_a_series_is_recorded_anew() -> None:
    editor = editor_of(tiny_sdxl(), break_even=0.5)
    editor.record(None, size=SIZE, **SETTINGS)
    large = editor.edit(prompt=NEW, mask=torch.ones(64, 96, dtype=torch.bool), keep=True)
    assert large.way == "dense"
    assert "recorded anew" in (large.reason or "")
    small = editor.edit(prompt="a meadow with a boat", mask=rectangle(), keep=True)
    assert small.way == "warm"
    assert torch.equal(small.picture[..., ~small.mask], large.picture[..., ~small.mask])


@pytest.mark.parametrize("way", ["cold", "record-steps"])
@pytest.mark.parametrize("build", [tiny_sdxl, lambda: tiny_sdxl(ANCESTRAL), tiny_sd15], ids=["sdxl", "sde", "sd15"])
def test_upon_a_few_steps_a_thin_run_of_everything_is_the_dense_one(build: Any, way: str) -> None:
    editor = editor_of(build(), norm="updated")
    edit = Edit(prompt=NEW, mask=torch.ones(64, 96, dtype=torch.bool))
    request = editor.request(None, size=SIZE, **SETTINGS)
    if way == "cold":
        _, result = editor.cold(request, edit, 3)
    else:
        editor.record_request(request, 3)
        result = editor.apply(edit)
    assert result.way == ("cold" if way == "cold" else "warm")
    assert torch.allclose(result.picture, editor.dense(request, edit).picture, atol=1e-4)


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_a_cold_edit_makes_few_dense_steps_and_keeps_its_originals_picture(pictured: bool, photo: Image.Image) -> None:
    pipe = tiny_sd15()
    editor = editor_of(pipe, capture_steps=2)
    request = editor.request(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS)
    calls: list[int] = []
    hook = pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: calls.append(args[0][0, 0].numel()))
    whole, result = editor.cold(request, Edit(prompt=NEW), 3)
    hook.remove()
    active = result.plan.sites.level((8, 12)).count
    assert calls == [*[96] * (6 if pictured else 0), *[96] * 3, *[1] * 6, 96, 96, *[active] * 4]
    assert (result.way, result.dense_calls, whole.kept) == ("cold", 2, (0, 1, 5))
    assert torch.equal(result.picture[..., ~result.mask], whole.picture[..., ~result.mask])
    assert torch.equal(whole.picture, request.original) == pictured
    assert whole.trajectory is not None
    assert len(whole.trajectory.latents) == 7
    assert len(whole.trajectory.corrections) == (6 if pictured else 0)
    assert whole.clock.total == 0
    assert len(result.clock.samples["unet"]) == 3  # the few, those between, the edit
    assert editor.recorded is None


def test_the_first_steps_are_made_one_after_the_other_and_find_the_mask_a_whole_recording_finds() -> None:
    editor = editor_of(tiny_sdxl(), capture_steps=2)
    request = editor.request(None, size=SIZE, **SETTINGS | {"steps": 12})
    editor.record_request(request)
    warm = editor.edit(prompt=NEW)
    whole, cold = editor.cold(request, Edit(prompt=NEW), 5)
    assert whole.kept == (0, 1, 4, 8, 11)
    assert torch.equal(warm.mask, cold.mask)


def test_all_steps_are_not_a_few() -> None:
    editor = editor_of(tiny_sdxl(), capture_steps=2)
    editor.record(None, size=SIZE, **SETTINGS)
    warm = editor.edit(prompt=NEW)
    _, cold = editor.cold(editor.request(None, size=SIZE, **SETTINGS), Edit(prompt=NEW), 6)
    assert torch.equal(warm.picture, cold.picture)


def test_a_few_steps_are_no_recording_for_a_series() -> None:
    editor = editor_of(tiny_sdxl())
    editor.record(None, size=SIZE, **SETTINGS, record_steps=3)
    with pytest.raises(SettingsError, match="leave out record_steps"):
        editor.edit(prompt=NEW, keep=True)


@pytest.mark.parametrize("pictured", [False, True], ids=["generated", "photo"])
def test_a_cold_edits_multiply_adds_are_those_that_ran(pictured: bool, photo: Image.Image) -> None:
    editor = editor_of(tiny_sd15(), capture_steps=2)
    request = editor.request(photo if pictured else None, size=None if pictured else SIZE, **SETTINGS)
    with count_macs() as count:
        whole, result = editor.cold(request, Edit(prompt=NEW), 3)
    counted = stage_entries(Counter(), editor, Done(whole.request, whole, result, None))
    ran = [stage["sparse"] for stage in counted.values()]
    # A run projects its prompt once, which is counted for every recorded step; an inversion has a text of its own.
    assert sum(entry["macs"] for entry in ran) == pytest.approx(count.macs, rel=0.005)
    assert sum(entry["attention_macs"] for entry in ran) == pytest.approx(count.attention_macs, rel=0.01)
    assert counted["unet"]["coarse"]["calls"] == 3


def test_a_mask_that_is_too_large_is_said_and_runs_dense() -> None:
    editor = editor_of(tiny_sdxl(), break_even=0.0)
    editor.record(None, size=SIZE, **SETTINGS)
    result = editor.edit(prompt=NEW)
    assert result.way == "dense"
    assert "so the edit ran dense" in (result.reason or "")
    assert editor.edit(prompt=NEW, mask=rectangle()).way == "dense"


def test_words_that_change_everything_alike_run_dense_and_say_so() -> None:
    editor = editor_of(tiny_sdxl(), all_over=0.0)
    editor.record(None, size=SIZE, **SETTINGS)
    result = editor.edit(prompt=NEW)
    assert (result.way, result.reason) == ("dense", CHANGES_ALL)
    dense = editor.dense(editor.request(None, size=SIZE, **SETTINGS), Edit(prompt=NEW))
    assert result.mask.any()
    assert torch.equal(result.picture[..., result.mask], dense.picture[..., result.mask])
    # A mask that was given is not doubted.
    assert editor.edit(prompt=NEW, mask=rectangle()).way == "warm"
    by_attention = editor_of(tiny_sd15(), all_over=0.0, mask_from="attention", capture_steps=2)
    by_attention.record(None, size=SIZE, **SETTINGS)
    assert by_attention.edit(prompt=NEW).way == "warm"


def test_how_far_a_change_reaches_beyond_its_mask() -> None:
    apart = torch.full((4, 6), 0.5)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    assert beyond(apart, mask) == beyond(apart, ~mask) == 0
    mask[1:3, 2:4] = True
    apart[mask] = 2.0
    assert beyond(apart, mask) == 0.25


def test_words_that_do_not_differ_and_schedules_without_a_thin_step_are_refused(photo: Image.Image) -> None:
    with pytest.raises(SettingsError, match="change some of its words"):
        check_words("a meadow", " a  meadow ")
    with pytest.raises(SettingsError, match="leave none of 4"):
        capture_steps(2, 2, 4)
    assert capture_steps(None, 0, 50) == 5
    assert capture_steps(None, 0, 4) == 1
    with pytest.raises(SettingsError, match="--scheduler ddim"):
        PromptEditor(tiny_sdxl()).record(photo, **SETTINGS)
    with pytest.raises(SettingsError, match="strength 1"):
        PromptEditor(tiny_sdxl()).record(None, size=SIZE, **SETTINGS | {"strength": 0.5})


def test_a_mask_is_the_scaled_sum_over_its_threshold() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.random((16, 24)) * 0.3 for _ in range(3)]
    for each in maps:
        each[4:9, 10:16] += 2
        each[12, 3] += 2  # a single cell, which the opening takes away
    total = sum((each - each.min()) / np.ptp(each) for each in maps)
    over = total > threshold_otsu(total)
    mask = mask_of([torch.from_numpy(each) for each in maps]).numpy()
    assert over[12, 3]
    assert not mask[12, 3]
    assert mask[4:9, 10:16].all()
    assert mask.sum() == 30


def test_what_reaches_a_lower_threshold_counts_where_it_hangs_together_with_more() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((16, 24)) * 0.1
    values[4:8, 4:8] = 1.0
    values[8:10, 8] = values[3, 14:18] = 0.45  # below the threshold: one touches a corner, one nothing
    values[12, 20] = 1.0  # a single cell, which the opening takes away, beside a weaker one
    values[12, 21] = 0.45
    threshold = threshold_otsu((values - values.min()) / np.ptp(values))
    lowest = 0.4 / threshold
    assert 0 < lowest < 1
    maps = [torch.from_numpy(values)]
    found = mask_of(maps, lowest).numpy()
    assert found[8:10, 8].all()
    assert found.sum() == mask_of(maps).sum() + 2 == 18


def test_otsus_threshold_is_the_one_of_greatest_variance_between_classes() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.2, 0.05, 300), rng.normal(0.8, 0.05, 84)]).clip(0, 1).reshape(16, 24)
    mask = mask_of([torch.from_numpy(values)]).numpy()

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(values.ravel(), key=between)
    scaled = (values - values.min()) / np.ptp(values)
    assert abs(between(best) / between(values[scaled > threshold_otsu(scaled)].min() - 1e-9) - 1) < 0.01
    assert (mask <= (values > 0.4)).all()


def test_attention_to_the_new_words_makes_a_mask_too() -> None:
    editor = editor_of(tiny_sdxl(), capture_steps=2, mask_from="attention")
    own = to_tensor(editor.record(None, size=SIZE, **SETTINGS))
    result = editor.edit(prompt=NEW)
    assert (result.way, result.plan.mask_source, result.dense_calls) == ("warm", "attention", 2)
    assert 0 < result.plan.edit_ratio < 1
    assert torch.equal(to_tensor(result.image)[..., ~result.mask], own[..., ~result.mask])
    assert not any(module._forward_pre_hooks for module in editor.stages.unet.modules())
    with pytest.raises(SettingsError, match="only takes words away"):
        editor.edit(prompt="meadow")


def test_new_words_are_found_by_their_place() -> None:
    pipe = tiny_sd15()
    assert new_tokens(pipe.tokenizer, "a meadow", "a meadow with a house") == [3, 4, 5]
    assert new_tokens(pipe.tokenizer, "a green meadow", "a red meadow") == [2]


def test_word_maps_are_the_attention_of_every_layer() -> None:
    """Held to softmax(q k' / √d) by hand, in a UNet with cross-attention at one resolution alone."""
    unet = tiny_sdxl().unet
    text = torch.randn(2, 7, 64)
    seen: list[tuple[Any, torch.Tensor]] = []
    layers = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append((module, args[0])))
    maps = WordMaps([2, 3], (8, 12))
    added = {"text_embeds": torch.randn(2, 32), "time_ids": torch.ones(2, 6)}
    with torch.no_grad(), maps.watching(unet):
        unet(torch.randn(2, 4, 8, 12), 5, text, added_cond_kwargs=added)
        expected = []
        for layer, tokens in seen:
            query = layer.to_q(tokens[1]).view(len(tokens[1]), layer.heads, -1).transpose(0, 1)
            key = layer.to_k(text[1]).view(7, layer.heads, -1).transpose(0, 1)
            weights = (query @ key.transpose(1, 2) / query.shape[2] ** 0.5).softmax(2)
            expected.append(weights[:, :, 2:4].sum(2).mean(0).view(1, 1, 4, 6))
        small = torch.stack(expected).mean(0)
        wide = torch.nn.functional.interpolate(small, (8, 12), mode="bilinear", align_corners=False)
        assert len(seen) == len(layers) > 1
        assert torch.allclose(maps.take(), wide[0, 0], atol=1e-5)


def test_maps_that_say_nothing_give_an_empty_mask() -> None:
    assert not mask_of([torch.zeros(8, 8), torch.ones(8, 8)]).any()
