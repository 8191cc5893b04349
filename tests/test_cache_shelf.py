"""Recordings that outlive their editor: taken up again bit for bit, refused for another thing, mended when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from PIL import Image

from sparsedit.cache import shelf as shelves
from sparsedit.cache.catalogue import entries, faults, remove
from sparsedit.cache.folder import RecordingFolder
from sparsedit.cache.lock import locked
from sparsedit.cache.shelf import Keeping
from sparsedit.cache.tensors import open_tensors, unfinished
from sparsedit.cache.tiers import Tier, tiers_of
from sparsedit.editor import SparseEditor
from sparsedit.errors import CacheError, DamagedError, SettingsError
from sparsedit.plan import Edit
from sparsedit.report.numbers import size_of
from sparsedit.settings import MaskPolicy
from tests.families import FAMILIES
from tests.pipelines import ANCESTRAL, DEIS, EULER, tiny_sdxl

POLICY = MaskPolicy(threshold=0.02, grow=3, level_dilation=0, feather=0, vae_margin=8)
SETTINGS: dict[str, Any] = {"prompt": "a house", "steps": 5, "strength": 0.8, "guidance": 3.0, "seed": 7}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def edited(original: Image.Image) -> Image.Image:
    pixels = np.asarray(original).copy()
    pixels[20:34, 30:52] = (200, 30, 30)
    return Image.fromarray(pixels)


def editor_at(folder: Path | None, pipe: Any = None, **keeping: Any) -> tuple[SparseEditor, list[int]]:
    """An editor of its own, as another process would have, and the denoising steps it runs."""
    steps: list[int] = []
    keeps = Keeping(folder, **keeping)
    pipe = pipe or tiny_sdxl()
    return SparseEditor(pipe, policy=POLICY, keeping=keeps, on_step=lambda done, _: steps.append(done)), steps


def picture(editor: SparseEditor, edited: Image.Image) -> torch.Tensor:
    return editor.edit(edited).picture


@pytest.fixture(scope="module")
def expected(original: Image.Image, edited: Image.Image) -> torch.Tensor:
    """The edit without a folder."""
    editor, _ = editor_at(None)
    editor.record(original, **SETTINGS)
    return picture(editor, edited)


def recorded_at(folder: Path, original: Image.Image, **keeping: Any) -> RecordingFolder:
    editor, _ = editor_at(folder, **keeping)
    editor.record(original, **SETTINGS)
    [entry] = entries(folder)
    return entry.folder


def test_the_second_editor_takes_up_what_the_first_recorded(
    tmp_path: Path, original: Image.Image, edited: Image.Image, expected: torch.Tensor
) -> None:
    first, steps = editor_at(tmp_path)
    own = first.record_request(first.request(original, **SETTINGS))
    assert torch.equal(picture(first, edited), expected)
    assert (own.loaded, len(steps)) == (False, 8)
    second, steps = editor_at(tmp_path)
    taken = second.record_request(second.request(original, **SETTINGS))
    assert (taken.loaded, steps, taken.clock.total) == (True, [], 0)
    assert torch.equal(taken.picture, own.picture)
    assert torch.equal(picture(second, edited), expected)
    assert len(steps) == 4
    assert taken.shelf is not None
    facts = taken.shelf.facts()
    assert facts is not None
    assert (facts["source"], facts["opening_s"] > 0) == ("disk", True)
    assert len(entries(tmp_path)) == 1


def test_the_size_is_known_before_to_the_byte(tmp_path: Path, original: Image.Image) -> None:
    editor, _ = editor_at(tmp_path)
    request = editor.request(original, **SETTINGS)
    for keeping in (Keeping(tmp_path), Keeping(precision="int8"), Keeping(rows="halo", precision="int8")):
        editor.keeping = keeping
        hole = torch.zeros(64, 96, dtype=torch.bool)
        hole[20:30, 40:60] = True
        shelf = editor.shelf(request, edits=[Edit(original, hole)])
        expected = shelf.nbytes
        recorded = editor.record_request(request, shelf=shelf)
        assert expected == recorded.nbytes + recorded.picture.nbytes


CHANGES: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "prompt": ({"prompt": "a boat"}, tiny_sdxl),
    "negative": ({"negative_prompt": "rain"}, tiny_sdxl),
    "seed": ({"seed": 8}, tiny_sdxl),
    "guidance": ({"guidance": 4.0}, tiny_sdxl),
    "strength": ({"strength": 0.6}, tiny_sdxl),
    "timesteps": ({"steps": 6}, tiny_sdxl),
    "task": ({"task": "inpaint"}, tiny_sdxl),
    "scheduler": ({}, lambda: tiny_sdxl(ANCESTRAL)),
    "config.vae": ({}, lambda: tiny_sdxl(tiny_vae=True)),
    "weights.unet": ({}, lambda: changed_weights(tiny_sdxl())),
    "dtype.unet": ({}, lambda: tiny_sdxl().to(torch.bfloat16)),
}


def changed_weights(pipe: Any) -> Any:
    """As a fused LoRA changes them: one matrix, a little, everywhere."""
    with torch.no_grad():
        pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight += 1e-3
    return pipe


@pytest.mark.parametrize("field", CHANGES)
def test_another_request_lies_beside_and_is_refused_in_the_same_place(
    field: str, tmp_path: Path, original: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recorded_at(tmp_path, original)
    changed, build = CHANGES[field]
    editor, _ = editor_at(tmp_path, build())
    request = editor.request(original, **SETTINGS | changed)
    shelf = editor.shelf(request)
    assert shelf.folder is not None
    assert shelf.folder.key != folder.key
    shelf.folder = folder
    with pytest.raises(CacheError, match=rf"made of something else: .*{field} \("):
        editor.record_request(request, shelf=shelf)


def test_another_picture_size_scheduler_setting_or_library_is_named(
    tmp_path: Path, original: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor, _ = editor_at(tmp_path)
    base = editor.shelf(editor.request(original, **SETTINGS)).fingerprint
    other, _ = editor_at(tmp_path, tiny_sdxl(DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)))
    small = other.shelf(other.request(original.crop((0, 0, 64, 64)), **SETTINGS)).fingerprint
    named = " ".join(base.differences(small))
    assert all(name in named for name in ("size ([96, 64], not [64, 64])", "original (", "scheduler (", "timesteps ("))
    monkeypatch.setattr("sparsedit.cache.fingerprint.version", lambda name: "9.9")
    newer = editor.shelf(editor.request(original, **SETTINGS)).fingerprint
    assert {word.split()[0] for word in base.differences(newer)} == {"torch", "diffusers", "transformers"}


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "gone", "cut"])
@pytest.mark.parametrize(
    "names", [["unet-0002"], ["encoder-0000"], ["unet-0000", "unet-0003"], ["unet-0001", "encoder-0000"]], ids=str
)
def test_damaged_steps_are_recorded_again_and_no_others(
    names: list[str], how: str, tmp_path: Path, original: Image.Image, edited: Image.Image, expected: torch.Tensor
) -> None:
    folder = recorded_at(tmp_path, original)
    files = {path: (open_tensors(path).digest, path.stat().st_ino) for path in folder.path.glob("*.safetensors")}
    damaged = [folder.path / f"{name}.safetensors" for name in names]
    for path in damaged:
        damage(path, how)
    assert len(faults(entries(tmp_path)[0])) == len(names)
    editor, _ = editor_at(tmp_path)
    editor.record(original, **SETTINGS)
    result = editor.edit(edited)
    assert result.way == "warm"
    assert torch.equal(result.picture, expected)
    assert names[-1] in str(result.reason) or names[0] in str(result.reason)
    said = "1 step was recorded again" if len(names) == 1 else "2 steps were recorded again"
    assert said in str(result.reason)
    assert not faults(entries(tmp_path)[0])
    assert all(open_tensors(path).digest == digest for path, (digest, _) in files.items())
    untouched = files.keys() - set(damaged)
    assert all(path.stat().st_ino == files[path][1] for path in untouched)
    assert editor.edit(edited).reason is None


@pytest.mark.parametrize("how", ["flipped", "gone", "cut"])
@pytest.mark.parametrize("form", [{"rows": "halo"}, {"precision": "int8"}], ids=str)
def test_smaller_recordings_are_mended_too_or_made_again(
    form: dict[str, str], how: str, tmp_path: Path, original: Image.Image, edited: Image.Image
) -> None:
    pictures = []
    for _ in range(2):
        editor, _ = editor_at(tmp_path, **form)
        request = editor.request(original, **SETTINGS)
        editor.record_request(request, shelf=editor.shelf(request, edits=[Edit(edited)]))
        pictures.append(picture(editor, edited))
        damage(entries(tmp_path)[0].folder.path / "unet-0001.safetensors", how)
    assert torch.equal(*pictures)


@pytest.mark.parametrize("name", ["unet-texts", "picture", "decoder-0000"])
@pytest.mark.parametrize("how", ["flipped", "gone", "cut"])
def test_damage_is_found_and_the_original_recorded_again(
    name: str, how: str, tmp_path: Path, original: Image.Image, edited: Image.Image, expected: torch.Tensor
) -> None:
    folder = recorded_at(tmp_path, original)
    damage(folder.path / f"{name}.safetensors", how)
    [fault] = faults(entries(tmp_path)[0])
    assert name in fault
    editor, _ = editor_at(tmp_path)
    editor.record(original, **SETTINGS)
    result = editor.edit(edited)
    assert torch.equal(result.picture, expected)
    assert result.way == "warm"
    if how == "flipped" and name[-1].isdigit():
        assert name in str(result.reason)
        assert "recorded again" in str(result.reason)
    assert not faults(entries(tmp_path)[0])
    assert not editor.record_request(editor.request(original, **SETTINGS)).clock.samples


def test_a_recording_that_was_interrupted_is_none(
    tmp_path: Path, original: Image.Image, edited: Image.Image, expected: torch.Tensor
) -> None:
    class KilledError(Exception):
        pass

    def die(done: int, _total: int) -> None:
        if done == 3:
            raise KilledError

    editor = SparseEditor(tiny_sdxl(), policy=POLICY, keeping=Keeping(tmp_path), on_step=die)
    with pytest.raises(KilledError):
        editor.record(original, **SETTINGS)
    [entry] = entries(tmp_path)
    assert faults(entry) == ["it is not whole"]
    (entry.folder.path / "unet-0003.safetensors.abc.tmp").write_bytes(b"half")
    (entry.folder.path / ".tmpQ1w2E3").write_bytes(b"half")
    editor, _ = editor_at(tmp_path)
    editor.record(original, **SETTINGS)
    assert torch.equal(picture(editor, edited), expected)
    assert not faults(entry)
    assert not unfinished(entry.folder.path)


def test_what_recording_json_says_is_checked_too(tmp_path: Path, original: Image.Image) -> None:
    folder = recorded_at(tmp_path, original)
    whole = folder.path / "recording.json"
    whole.write_text("{", encoding="utf-8")
    assert folder.contents() is None
    recorded_at(tmp_path, original)
    assert json.loads(whole.read_text(encoding="utf-8"))["steps"] == {"encoder": 1, "unet": 4, "decoder": 1}


def test_a_budget_holds_what_it_can_and_leaves_the_rest_on_the_disk(
    tmp_path: Path, original: Image.Image, edited: Image.Image, expected: torch.Tensor
) -> None:
    editor, _ = editor_at(tmp_path)
    whole = editor.record_request(editor.request(original, **SETTINGS)).nbytes
    remove(entries(tmp_path)[0])
    budget = whole * 7 // 10  # all steps of the UNet, and not the decoder's
    editor, _ = editor_at(tmp_path, budget=budget)
    recorded = editor.record_request(editor.request(original, **SETTINGS))
    caches: dict[str, Any] = dict(recorded.caches)
    [tier] = caches["unet"].tiers
    held = sum(caches[stage].nbytes for stage in ("encoder", "unet")) - caches["unet"].texts.nbytes
    assert tier.used == held <= budget < whole
    assert torch.equal(picture(editor, edited), expected)
    caches["encoder"].clear()
    caches["unet"].clear()
    assert tier.used == 0


def test_a_budget_too_small_is_refused_with_what_is_needed(tmp_path: Path, original: Image.Image) -> None:
    editor, _ = editor_at(None, budget=1000)
    request = editor.request(original, **SETTINGS)
    with pytest.raises(CacheError, match=r"takes .* MB, and the budget is 1\.00 kB; .*int8 \(.* MB\), --cache DIR$"):
        editor.shelf(request)
    editor, _ = editor_at(tmp_path, budget=1000)
    with pytest.raises(CacheError, match=r"the step in use and the next take .* kB"):
        editor.shelf(request)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheduler", [EULER, DEIS], ids=["euler", "deis"])
def test_a_refusal_names_levers_that_meet_the_budget(
    scheduler: Any, original: Image.Image, edited: Image.Image
) -> None:
    """Whoever does as it says is not refused; steps of DEIS cannot be left out, so it names none."""

    def size(budget: int | None, count: int | None = None, **form: Any) -> int:
        editor = SparseEditor(tiny_sdxl(scheduler), policy=POLICY, keeping=Keeping(None, budget, **form))
        return editor.recording_size(editor.request(original, **SETTINGS), count, [Edit(edited)])

    whole, halo = size(None), size(None, rows="halo")
    with pytest.raises(CacheError) as refused:
        size(whole - 1)
    said = str(refused.value)
    assert f"--cache-rows halo ({size_of(halo)})" in said
    assert ("--record-steps 3 (" in said) == (scheduler is EULER)
    assert size(halo, rows="halo") == halo
    with pytest.raises(CacheError) as refused:
        size(halo - 1, rows="halo")
    assert "--cache-precision int8" in str(refused.value)
    assert "both" not in str(refused.value)
    if scheduler is EULER:
        assert size(whole - 1, 3) < whole
        tight = size(None, 2, rows="halo", precision="int8")
        with pytest.raises(CacheError, match=r"these and --record-steps 2 \("):
            size(tight)
        assert size(tight, 2, rows="halo", precision="int8") == tight
        with pytest.raises(CacheError) as refused:
            size(tight - 1)
        assert "--record-steps" not in str(refused.value)


def test_the_next_step_is_read_and_verified_while_the_present_one_is_used(
    tmp_path: Path, original: Image.Image
) -> None:
    recorded_at(tmp_path, original)
    editor, _ = editor_at(tmp_path)
    caches: dict[str, Any] = dict(editor.record_request(editor.request(original, **SETTINGS)).caches)
    unet = caches["unet"]
    assert not unet._verified
    unet.step(0)
    unet._coming[1].result()  # asked for by nobody but the cache itself
    assert unet._verified == {0, 1}
    with unet._files[3].path.open("r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)[0]
        file.seek(-5, 2)
        file.write(bytes([byte ^ 16]))
    unet.step(2)
    with pytest.raises(DamagedError):
        unet._coming[3].result()
    unet.step(1)  # what is wrong ahead is said when it is needed, not before
    with pytest.raises(DamagedError, match="unet-0003"):
        unet.step(3)


def test_a_disk_without_room_is_refused(tmp_path: Path, original: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    editor, _ = editor_at(tmp_path / "new")
    with pytest.raises(CacheError, match=r"has 1\.00 kB left"):
        editor.shelf(editor.request(original, **SETTINGS))


def test_forms_that_are_smaller_edit_nearly_or_exactly_the_same(
    tmp_path: Path, original: Image.Image, edited: Image.Image, expected: torch.Tensor
) -> None:
    sizes = {}
    for form in ({}, {"rows": "halo"}, {"precision": "int8"}, {"rows": "halo", "precision": "int8"}):
        for _ in range(2):  # recorded, then taken up
            editor, _ = editor_at(tmp_path, **form)
            request = editor.request(original, **SETTINGS)
            recorded = editor.record_request(request, shelf=editor.shelf(request, edits=[Edit(edited)]))
            result = picture(editor, edited)
            assert torch.allclose(result, expected, atol=0 if "precision" not in form else 0.02)
        assert recorded.loaded
        sizes[tuple(form)] = recorded.nbytes
    assert len(entries(tmp_path)) == 4
    assert sizes["rows", "precision"] < sizes[("rows",)] < sizes[()] > sizes[("precision",)]


def test_a_halo_needs_its_edits(original: Image.Image) -> None:
    editor, _ = editor_at(None, rows="halo")
    with pytest.raises(SettingsError, match="when all edits are known"):
        editor.record(original, **SETTINGS)


def test_record_steps_are_a_recording_of_their_own(tmp_path: Path, original: Image.Image, edited: Image.Image) -> None:
    pictures = []
    for _ in range(2):
        editor, _ = editor_at(tmp_path)
        recorded = editor.record_request(editor.request(original, **SETTINGS), 2)
        pictures.append(picture(editor, edited))
    assert recorded.loaded
    assert torch.equal(*pictures)
    assert len(recorded.caches["unet"]) == 2


def test_only_recordings_are_listed_and_none_is_removed_while_it_is_written(
    tmp_path: Path, original: Image.Image
) -> None:
    recorded_at(tmp_path, original)
    (tmp_path / "mine").mkdir()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    [entry] = entries(tmp_path)
    with locked(entry.folder.lock), pytest.raises(CacheError, match="another process"):
        remove(entry)
    size = entry.folder.nbytes
    assert remove(entry) == size
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locks", "mine", "notes.txt"]


def test_tiers_share_a_budget() -> None:
    [tier] = tiers_of(CPU, 10, on_disk=True)
    assert [tier.take(size) for size in (6, 5, 4, 1)] == [True, False, True, False]
    assert tiers_of(CPU, None, on_disk=True) == [Tier(CPU, 0)]
    assert tiers_of(CPU, None, on_disk=False)[0].take(10**15)


def test_a_model_on_pixels_is_taken_up_again_and_mended(
    tmp_path: Path, original: Image.Image, edited: Image.Image
) -> None:
    pictures = []
    for _ in range(3):
        editor, _ = editor_at(tmp_path, DDIMPipeline(FAMILIES["ddim"].build(), DDIMScheduler()))
        editor.record(original, steps=4, strength=0.5, prompt="", guidance=0.0)
        pictures.append(picture(editor, edited))
        damage(entries(tmp_path)[0].folder.path / "unet-0001.safetensors", "flipped")
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[1], pictures[2])
