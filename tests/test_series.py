"""Consecutive edits: each begins where the last one ended, none runs densely, and none is ever half remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, LCMScheduler
from PIL import Image
from torch import Tensor

from sparsedit.cache.catalogue import entries, faults
from sparsedit.cache.shelf import Keeping
from sparsedit.control import control_map
from sparsedit.editor import SparseEditor
from sparsedit.errors import CacheError, ModelError, SettingsError
from sparsedit.images import to_tensor
from sparsedit.moving import MovingEditor
from sparsedit.plan import Edit
from sparsedit.prompting import PromptEditor
from sparsedit.results import Recorded
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import SitePyramid
from sparsedit.sparse.packing import can_pack
from tests.families import FAMILIES
from tests.pipelines import ANCESTRAL, controlled, tiny_refiner, tiny_sd15, tiny_sdxl
from tests.test_decoding import half
from tests.test_renewal import tensors

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 5, "strength": 0.8, "guidance": 3.0, "seed": 7}
PIPELINES: dict[str, Callable[[], Any]] = {
    "sdxl-euler": tiny_sdxl,
    "sdxl-ancestral": lambda: tiny_sdxl(ANCESTRAL),
    "sdxl-lcm": lambda: tiny_sdxl(LCMScheduler(beta_schedule="scaled_linear")),
    "sdxl-tiny-vae": lambda: tiny_sdxl(tiny_vae=True),
    "sd15-ddim": tiny_sd15,
}
EVERYWHERE = torch.ones(64, 96, dtype=torch.bool)


def block(rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT = block(slice(20, 34), slice(10, 30)), block(slice(24, 44), slice(60, 80))
BESIDE = block(slice(20, 34), slice(26, 46))


def painted(picture: Tensor, mask: Tensor, colour: Sequence[float]) -> Tensor:
    """A picture with a stroke on it."""
    return torch.where(mask, torch.tensor(colour).view(1, 3, 1, 1), picture)


RED, BLUE = (0.6, -0.8, -0.8), (-0.8, -0.7, 0.7)


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


def ready(pipe: Any, original: Image.Image, *, settings: dict[str, Any] | None = None, **options: Any) -> SparseEditor:
    """An editor with its original recorded."""
    editor = SparseEditor(pipe, **{"policy": POLICY} | options)
    editor.record_request(editor.request(original, **SETTINGS | (settings or {})))
    return editor


def recorded(editor: SparseEditor) -> Recorded:
    assert editor.recorded is not None
    return editor.recorded


def held(editor: SparseEditor) -> dict[str, Tensor]:
    """A copy of every tensor of the recording, steps, prompts and picture."""
    caches = recorded(editor).caches
    steps = {
        f"{stage} {number} {name}": tensor.clone()
        for stage, cache in caches.items()
        for number, step in enumerate(cache)
        for name, tensor in tensors(step).items()
    }
    texts = {f"{stage} {key}": t.clone() for stage, cache in caches.items() for key, t in cache.texts.projected.items()}
    return steps | texts | {"picture": recorded(editor).picture.clone()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_next_edit_leaves_the_last_ones_result_around_it_bit_for_bit(name: str, original: Image.Image) -> None:
    editor = ready(PIPELINES[name](), original)
    own = recorded(editor).picture
    first = editor.edit(painted(to_tensor(original), LEFT, RED), keep=True)
    assert first.way == "warm"
    for mask in (RIGHT, BESIDE):
        last = recorded(editor).picture.clone()
        second = editor.edit(painted(last, mask, BLUE), keep=True)
        assert second.way == "warm"
        assert torch.equal(second.picture[..., ~second.mask], last[..., ~second.mask])
        assert not torch.equal(second.picture[..., mask], last[..., mask])
    around = first.mask & ~second.mask
    assert torch.equal(second.picture[..., around], first.picture[..., around])
    untouched = ~(first.mask | second.mask)
    untouched[:, 50:] = False
    assert torch.equal(second.picture[..., untouched], own[..., untouched])


def test_what_the_edit_before_made_answers_the_next_one(original: Image.Image) -> None:
    """Its place is denoised again, though the picture there stays (as the test above says)."""
    editor = ready(tiny_sdxl(), original)
    first = editor.edit(painted(to_tensor(original), LEFT, RED), keep=True)
    second = editor.edit(painted(recorded(editor).picture, RIGHT, BLUE), keep=True)
    third = editor.edit(painted(recorded(editor).picture, BESIDE, RED), keep=True)
    for before, after in ((first, second), (second, third)):
        assert torch.equal(after.plan.sites.mask, before.plan.hole | after.plan.hole)
        assert before.latents is not None
        assert after.latents is not None
        levels = [SitePyramid(plan.hole).level((8, 12)).position.view(8, 12) for plan in (before.plan, after.plan)]
        there, own = (level >= 0 for level in levels)
        assert (there & ~own).any()
        assert not torch.equal(after.latents[..., there & ~own], before.latents[..., there & ~own])
    assert not (second.mask & LEFT).any()
    assert not (second.plan.stage_sites["decoder"].mask & LEFT).any()


def test_an_edit_before_that_would_make_the_next_one_dense_is_left_alone(original: Image.Image) -> None:
    editor = ready(tiny_sdxl(), original)
    first = editor.edit(painted(to_tensor(original), LEFT, RED), keep=True)
    alone = ready(editor.stages.pipe, original)
    share = alone.stages.reach(alone.edit(painted(to_tensor(original), RIGHT, BLUE)).plan.sites)
    editor.break_even = max(share, editor.stages.reach(first.plan.sites))
    second = editor.edit(painted(recorded(editor).picture, RIGHT, BLUE), keep=True)
    assert second.way == "warm"
    assert torch.equal(second.plan.sites.mask, second.plan.hole)


@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_an_edit_of_nothing_is_the_last_result(task: str, original: Image.Image) -> None:
    editor = ready(tiny_sdxl(), original, settings={"task": task})
    first = editor.edit(painted(to_tensor(original), LEFT, RED), mask=LEFT, keep=True)
    before = held(editor)
    nothing = editor.edit(first.image if task == "inpaint" else first.picture, keep=True)
    assert (nothing.way, torch.equal(nothing.picture, first.picture)) == ("none", True)
    assert equal(held(editor), before)


@pytest.mark.parametrize("name", PIPELINES)
def test_an_edit_of_everything_leaves_the_recording_of_the_edited_picture(name: str, original: Image.Image) -> None:
    """With norms that follow the edit, tensor for tensor."""
    editor = ready(PIPELINES[name](), original, norm="updated", break_even=1.0)
    edited = painted(to_tensor(original).flip(3), LEFT, RED)
    result = editor.edit(edited, mask=EVERYWHERE, prompt="a boat", keep=True)
    found = held(editor)
    other = ready(editor.stages.pipe, original, norm="updated", settings={})
    other.record_request(other.request(edited, **SETTINGS | {"prompt": "a boat"}))
    expected = held(other)
    assert torch.allclose(result.picture, expected.pop("picture"), atol=1e-4)
    del found["picture"]
    steps = [key for key in expected if "(" not in key]
    assert steps == [key for key in found if "(" not in key]
    for key in steps:
        assert (found[key] - expected[key]).norm() <= 1e-4 * expected[key].norm() + 1e-5, key
    texts = [[each for key, each in one.items() if "(" in key] for one in (found, expected)]
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(*texts, strict=True))


def test_an_inpainting_of_everything_leaves_the_recording_of_its_result(original: Image.Image) -> None:
    """Recorded without a hole, as every photo is (docs/decisions.md, 6)."""
    editor = ready(tiny_sdxl(), original, norm="updated", break_even=1.0, settings={"task": "inpaint"})
    result = editor.edit(mask=EVERYWHERE, keep=True)
    found = held(editor)
    other = SparseEditor(editor.stages.pipe, policy=POLICY, norm="updated")
    other.record_request(other.request(result.picture, **SETTINGS | {"task": "inpaint"}))
    expected = held(other)
    assert found.keys() == expected.keys()
    for key in expected:
        if key != "picture":
            assert (found[key] - expected[key]).norm() <= 1e-4 * expected[key].norm() + 1e-5, key


def test_the_pictures_may_be_painted_on_the_first_original_too(original: Image.Image) -> None:
    """What an edit changed there is done upon what the series has so far, and what that has already is left alone."""
    photo = to_tensor(original)
    editor = ready(tiny_sdxl(), original)
    one = painted(photo, LEFT, RED)
    both = painted(one, RIGHT, BLUE)
    first = editor.advance(Edit(one, upon=photo))
    for second in (painted(photo, RIGHT, BLUE), both):
        plan = editor.apply(Edit(second, upon=photo)).plan
        assert torch.equal(plan.changed, RIGHT)
        assert torch.equal(plan.picture, both)
    second = editor.advance(Edit(both, upon=photo))
    assert torch.equal(second.picture[..., ~second.mask], first.picture[..., ~second.mask])
    assert editor.apply(Edit(one, upon=photo)).way == "none"


def test_a_dense_edit_of_a_series_is_the_stock_edit_of_all_strokes_so_far(original: Image.Image) -> None:
    photo = to_tensor(original)
    editor = ready(tiny_sdxl(), original)
    editor.edit(painted(photo, LEFT, RED), keep=True)
    both = painted(painted(photo, LEFT, RED), RIGHT, BLUE)
    last = recorded(editor).picture
    dense = editor.dense(recorded(editor).request, Edit(painted(last, RIGHT, BLUE)))
    plain = editor.dense(editor.request(original, **SETTINGS), Edit(both))
    assert torch.equal(dense.generated, plain.generated)
    thin = editor.edit(painted(last, RIGHT, BLUE))
    gap = (thin.picture - dense.picture)[..., RIGHT].square().mean()
    assert gap < (last - dense.picture)[..., RIGHT].square().mean() / 2


@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_only_the_first_original_is_run_densely(task: str, original: Image.Image) -> None:
    seen: list[int] = []
    pipe = tiny_sdxl()
    editor = SparseEditor(pipe, policy=POLICY)
    conv = pipe.unet.conv_in
    pipe.unet.conv_out.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2] * args[0].shape[3]))
    editor.record_request(editor.request(original, **SETTINGS | {"task": task}))
    assert conv is pipe.unet.conv_in
    assert seen == [8 * 12] * 4
    seen.clear()
    for mask in (LEFT, RIGHT, BESIDE, LEFT):
        editor.edit(painted(recorded(editor).request.original, mask, RED), mask=mask, keep=True)
        assert not recorded(editor).clock.samples
    assert max(seen) < 8 * 12 / 2


def test_bfloat16_and_packed_weights_go_on(original: Image.Image) -> None:
    """Moments are taken about a new mean after every edit; rounding them ten times must not lead away."""
    editor = ready(tiny_sdxl().to(torch.bfloat16), original, norm="updated", break_even=1.0)
    assert editor.packed is not None or not can_pack()
    for number in range(10):
        mask = (LEFT, RIGHT, BESIDE)[number % 3]
        strokes = painted(recorded(editor).picture, mask, RED if number % 2 else BLUE)
        last = editor.edit(strokes, mask=mask, keep=True)
    found = held(editor)
    request = recorded(editor).request
    editor.record_request(editor.request(request.given, **SETTINGS))
    assert torch.allclose(last.picture, recorded(editor).picture, atol=0.1)
    for key, tensor in held(editor).items():
        if key.endswith(("norm 0", "norm1 0", "norm2 0")):  # means of whole maps
            assert (found[key] - tensor).abs().max() < 0.1, key


def test_a_picture_of_any_size_goes_on(original: Image.Image) -> None:
    """Padded for the model at every edit, and cropped back."""
    odd = original.crop((0, 0, 90, 60))
    editor = ready(tiny_sdxl(), odd)
    first = editor.edit(painted(to_tensor(odd), LEFT[:60, :90], RED), keep=True)
    second = editor.edit(painted(first.picture, RIGHT[:60, :90], BLUE), keep=True)
    assert second.picture.shape == (1, 3, 60, 90)
    assert torch.equal(second.picture[..., ~second.mask], first.picture[..., ~second.mask])


def test_a_model_on_pixels_goes_on(original: Image.Image) -> None:
    photo = to_tensor(original)[..., :32, :48]
    pipe = DDIMPipeline(FAMILIES["ddim"].build(), DDIMScheduler())
    editor = SparseEditor(pipe, policy=POLICY, norm="updated")
    settings: dict[str, Any] = {"steps": 6, "strength": 0.5, "guidance": 0.0, "seed": 7}
    editor.record_request(editor.request(photo, **settings))
    left, right = LEFT[10:42, 5:53] & (torch.arange(48) < 14), RIGHT[14:46, 40:88]
    first = editor.edit(painted(photo, left, RED), keep=True)
    second = editor.edit(painted(first.picture, right, BLUE), keep=True)
    assert (first.way, second.way) == ("warm", "warm")
    assert torch.equal(second.picture[..., ~second.mask], first.picture[..., ~second.mask])


def test_what_writing_takes_is_a_part_of_the_edit(original: Image.Image) -> None:
    editor = ready(tiny_sdxl(), original)
    edit = Edit(painted(to_tensor(original), LEFT, RED))
    assert "writing" not in editor.apply(edit).clock.samples
    assert editor.advance(edit).clock.seconds("writing") > 0


def test_the_prompt_goes_on_and_is_projected_once(original: Image.Image) -> None:
    editor = ready(tiny_sdxl(), original)
    editor.edit(painted(to_tensor(original), LEFT, RED), prompt="a red house", keep=True)
    assert recorded(editor).request.prompt == "a red house"
    nbytes = recorded(editor).nbytes
    for mask in (RIGHT, BESIDE):
        editor.edit(painted(recorded(editor).picture, mask, BLUE), keep=True)
        assert recorded(editor).nbytes == nbytes


class StoppedError(Exception):
    """Stands for whatever ends a pass."""


@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_a_pass_that_fails_leaves_the_recording_as_it_was(task: str, original: Image.Image) -> None:
    armed: list[int] = []

    def stop(done: int, _total: int) -> None:
        if armed:
            armed[0] -= 1
            if not armed[0]:
                raise StoppedError

    editor = ready(tiny_sdxl(), original, on_step=stop, settings={"task": task})
    edit = Edit(painted(to_tensor(original), LEFT, RED), LEFT)
    before, whole = held(editor), recorded(editor)
    expected = editor.apply(edit).picture
    for step in (2, 6) if task == "inpaint" else (2,):
        armed[:] = [step]
        with pytest.raises(StoppedError):
            editor.advance(edit)
        armed.clear()
        assert editor.recorded is whole
        assert equal(held(editor), before)
    assert torch.equal(editor.advance(edit).picture, expected)


@pytest.mark.parametrize("stage", ["encoder", "unet", "decoder"])
def test_a_recording_half_written_is_never_used(
    stage: str, original: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = ready(tiny_sdxl(), original)
    edit = Edit(painted(to_tensor(original), LEFT, RED))
    whole = recorded(editor)

    def stop(_number: int) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole.caches[stage], "home", stop)
    with pytest.raises(KeyboardInterrupt):
        editor.advance(edit)
    for again in (editor.apply, editor.advance):
        with pytest.raises(CacheError, match="while an edit was written into it; record the original again"):
            again(edit)
    editor.record_request(editor.request(original, **SETTINGS))
    assert editor.apply(edit).way == "warm"


def test_a_huge_edit_runs_densely_and_is_recorded_anew(original: Image.Image) -> None:
    editor = ready(tiny_sdxl(), original, break_even=0.3)
    inverted = -to_tensor(original)
    result = editor.edit(inverted, keep=True)
    assert (result.way, "recorded anew" in str(result.reason)) == ("dense", True)
    assert torch.equal(recorded(editor).request.original, result.picture)
    other = ready(editor.stages.pipe, original)
    other.record_request(other.request(inverted, **SETTINGS))
    found, expected = held(editor), held(other)
    assert equal(found | {"picture": expected["picture"]}, expected)
    second = editor.edit(painted(result.picture, LEFT, RED), keep=True)
    assert second.way == "warm"
    assert torch.equal(second.picture[..., ~second.mask], result.picture[..., ~second.mask])


def test_a_recording_of_some_steps_goes_on_as_one(original: Image.Image) -> None:
    editor = SparseEditor(tiny_sdxl(), policy=POLICY)
    editor.record(original, record_steps=3, **SETTINGS)
    first = editor.edit(painted(to_tensor(original), LEFT, RED), keep=True)
    assert [len(recorded(editor).caches[stage]) for stage in ("encoder", "unet", "decoder")] == [1, 3, 1]
    second = editor.edit(painted(first.picture, RIGHT, BLUE), keep=True)
    assert torch.equal(second.picture[..., ~second.mask], first.picture[..., ~second.mask])
    assert recorded(editor).kept == (0, 2, 3)


def test_a_folder_keeps_the_first_original_and_the_series_lives_in_memory(
    tmp_path: Path, original: Image.Image
) -> None:
    strokes = [Edit(painted(to_tensor(original), mask, RED), upon=original) for mask in (LEFT, RIGHT, BESIDE)]
    plain = ready(tiny_sdxl(), original)
    expected = [plain.advance(edit).picture for edit in strokes]
    for loaded in (False, True):
        editor = ready(tiny_sdxl(), original, keeping=Keeping(tmp_path))
        assert recorded(editor).loaded == loaded
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
        found = [editor.advance(edit).picture for edit in strokes]
        assert all(map(torch.equal, found, expected))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
        [entry] = entries(tmp_path)
        assert not faults(entry)
    again = ready(tiny_sdxl(), original, keeping=Keeping(tmp_path))
    assert torch.equal(again.apply(strokes[0]).picture, expected[0])


def test_damage_is_found_before_a_series_takes_a_recording_up(tmp_path: Path, original: Image.Image) -> None:
    edit = Edit(painted(to_tensor(original), LEFT, RED))
    expected = ready(tiny_sdxl(), original, keeping=Keeping(tmp_path)).apply(edit).picture
    [path] = tmp_path.rglob("decoder-0000.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)
    editor = ready(tiny_sdxl(), original, keeping=Keeping(tmp_path))
    result = editor.advance(edit)
    assert torch.equal(result.picture, expected)
    assert "recorded again" in str(result.reason)


def test_a_series_without_room_is_refused_before_it_runs(tmp_path: Path, original: Image.Image) -> None:
    nbytes = recorded(ready(tiny_sdxl(), original)).nbytes
    editor = ready(tiny_sdxl(), original, keeping=Keeping(tmp_path, budget=nbytes * 7 // 10))
    edit = Edit(painted(to_tensor(original), LEFT, RED))
    with pytest.raises(CacheError, match=r"a series holds its recording in memory, .* and the budget is .*; raise"):
        editor.advance(edit)
    assert editor.apply(edit).way == "warm"


def test_int8_goes_on_and_a_halo_is_refused(original: Image.Image) -> None:
    photo = to_tensor(original)
    plain = ready(tiny_sdxl(), original)
    small = ready(tiny_sdxl(), original, keeping=Keeping(precision="int8"))
    for mask in (LEFT, RIGHT, BESIDE):
        results = [editor.advance(Edit(painted(photo, mask, RED), upon=photo)).picture for editor in (plain, small)]
        assert torch.allclose(*results, atol=0.05)
        assert not torch.equal(*results)
    editor = SparseEditor(tiny_sdxl(), policy=POLICY, keeping=Keeping(rows="halo"))
    request, edit = editor.request(original, **SETTINGS), Edit(painted(photo, LEFT, RED))
    editor.record_request(request, shelf=editor.shelf(request, edits=[edit]))
    with pytest.raises(SettingsError, match=r"a series needs every row.*leave out --cache-rows halo"):
        editor.advance(edit)


@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_goes_on_from_what_it_made(channels: int, original: Image.Image) -> None:
    editor = ready(tiny_sdxl(in_channels=channels), original, settings={"task": "inpaint"})
    first = editor.edit(mask=LEFT, keep=True)
    assert torch.equal(recorded(editor).request.original, first.picture)
    second = editor.edit(mask=BESIDE, prompt="a tree", keep=True)
    assert torch.equal(second.picture[..., ~BESIDE], first.picture[..., ~BESIDE])
    dense = editor.dense(editor.request(first.picture, **SETTINGS | {"task": "inpaint"}), Edit(mask=BESIDE))
    assert dense.picture.shape == second.picture.shape


def test_a_controlnet_sees_the_strokes_so_far(original: Image.Image) -> None:
    editor = ready(controlled(tiny_sdxl()), original)
    one = painted(to_tensor(original), LEFT, RED)
    first = editor.edit(one, keep=True)
    request = recorded(editor).request
    assert request.control is not None
    assert torch.equal(request.control, control_map(one))
    second = editor.apply(Edit(painted(first.picture, RIGHT, BLUE)))
    assert second.plan.control is not None
    assert torch.equal(second.plan.control, control_map(painted(one, RIGHT, BLUE)))


def test_pictures_of_a_map_go_on_by_their_maps(original: Image.Image) -> None:
    editor = ready(controlled(tiny_sd15()), original, settings={"task": "control", "strength": 1.0})
    one = painted(to_tensor(original), LEFT, RED)
    first = editor.edit(one, keep=True)
    assert torch.equal(recorded(editor).request.original, one)
    second = editor.edit(painted(one, RIGHT, BLUE), keep=True)
    assert torch.equal(second.picture[..., ~second.mask], first.picture[..., ~second.mask])


def test_a_refiner_goes_on_too(original: Image.Image) -> None:
    editor = ready(tiny_sdxl(), original, refiner=tiny_refiner(), settings={"steps": 10})
    first = editor.edit(painted(to_tensor(original), LEFT, RED), keep=True)
    second = editor.edit(painted(first.picture, RIGHT, BLUE), keep=True)
    assert (first.way, second.way) == ("warm", "warm")
    assert torch.equal(second.picture[..., ~second.mask], first.picture[..., ~second.mask])


def test_a_series_needs_a_recording(original: Image.Image) -> None:
    kinds = ((SparseEditor, Edit(original)), (MovingEditor, Edit(by=(8, 0))), (PromptEditor, Edit(prompt="a tree")))
    for kind, edit in kinds:
        with pytest.raises(CacheError, match="call record"):
            kind(tiny_sdxl(), policy=POLICY).advance(edit)


def test_an_edit_whose_picture_overflows_is_not_kept(original: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = ready(half(overflows=False), original)
    edit = Edit(painted(to_tensor(original), LEFT, RED))
    before = held(editor)
    stock = editor.stages.decode
    black = torch.full((1, 3, 64, 96), -1.0)
    monkeypatch.setattr(
        editor.stages, "decode", lambda z: stock(z) if editor.stages.decoder_dtype == torch.float32 else black
    )
    with pytest.raises(ModelError, match="cannot be kept; record the original in float32"):
        editor.advance(edit)
    assert equal(held(editor), before)
