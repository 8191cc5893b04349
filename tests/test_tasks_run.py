"""Prompt, control, pan and rotate from the command line and from manifests: what is refused, what records say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from sparsedit import cli
from sparsedit.engines.local import check_inputs, run_jobs
from sparsedit.engines.steps import total_steps
from sparsedit.jobs import plan_jobs
from sparsedit.manifest import load_manifest
from sparsedit.models.presets import get_preset
from sparsedit.records import Record
from sparsedit.runs import RunFolder
from tests.pipelines import controlled, tiny_sd15
from tests.test_run import Watch

ROOT = Path(__file__).parents[1]
PRESET = {"steps": 5, "strength": 0.6, "guidance": 3.0}
WORDS = ("--task", "prompt", "--prompt", "a meadow", "--edit-prompt", "a red house")


@pytest.fixture(autouse=True)
def words_that_change_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights know no things: what words change, they change all over."""
    monkeypatch.setattr("sparsedit.prompting.ALL_OVER", math.inf)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC).save("photo.png")
    plain = Image.new("RGB", (96, 64), (90, 90, 90))
    plain.save("plain.png")
    ImageDraw.Draw(plain).rectangle((48, 16, 72, 40), fill="white")
    plain.save("box.png")
    return tmp_path


def run(folder: Path, case: dict[str, Any], pipe: Any, **defaults: Any) -> tuple[list[Record], Watch]:
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "defaults": defaults, "cases": [{"id": "one", **case}]}))
    jobs = plan_jobs(load_manifest(path), PRESET, {}, {})
    check_inputs(jobs)
    watch = Watch()
    records = list(run_jobs(jobs, pipe, "tiny", RunFolder.create(folder / "run", overwrite=False), watch, "tasks"))
    assert total_steps(jobs) <= watch.expected
    return records, watch


def test_a_prompt_edit_of_a_made_original(here: Path) -> None:
    variants = [{"id": "house", "prompt": "a red house"}, {"id": "tree", "prompt": "a tree"}]
    case = {"prompt": "a meadow", "size": "96x64", "variants": variants}
    records, watch = run(here, case, tiny_sd15(), task="prompt", capture_steps=2, grow=0)
    assert watch.steps == watch.expected
    for record in records:
        assert (record["status"], record["way"], record["mask_source"]) == ("ok", "warm", "latents"), record["reason"]
        assert (record["size"], record["steps_run"]) == ([96, 64], 5)
        assert (record["dense_calls"], record["left_out_calls"]) == (2, 0)
        assert record["fidelity"]["outside_equal"]
        unet = record["stages"]["unet"]
        assert 2 / 5 < unet["sparse"]["macs"] / unet["dense"]["macs"] < 1
        assert "inversion" not in record["stages"]
    pictures = here / "run" / "images" / "one" / "house"
    original, sparse, mask = (
        np.asarray(Image.open(pictures / f"{name}.png")) for name in ("original", "sparse", "mask")
    )
    assert original.std() > 0
    assert (original[mask == 0] == sparse[mask == 0]).all()


def test_steps_are_left_out_in_a_series_of_words(here: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 40:64] = 255
    Image.fromarray(mask).save(here / "mask.png")
    variants = [{"id": words.replace(" ", "-"), "prompt": words, "mask": "mask.png"} for words in ("a house", "a tree")]
    case = {"prompt": "a meadow", "size": "96x64", "variants": variants, "series": True}
    records, watch = run(here, case, tiny_sd15(), task="prompt", grow=0, mask_from="spread")
    assert watch.steps == watch.expected
    for record in records:
        assert (record["status"], record["way"], record["mask_source"]) == ("ok", "warm", "user"), record["reason"]
        assert (record["steps_run"], record["dense_calls"], record["left_out_calls"]) == (5, 0, 2)
        assert record["stages"]["unet"]["sparse"]["calls"] == 3
        assert record["fidelity"]["outside_equal"]


def test_a_prompt_edit_of_a_photo_is_inverted_by_ddim(here: Path) -> None:
    case = {"original": "photo.png", "prompt": "a meadow", "variants": [{"id": "house", "prompt": "a red house"}]}
    (record,), watch = run(here, case, tiny_sd15(), task="prompt", grow=0)
    assert watch.steps == watch.expected
    assert record["status"] == "ok", record["reason"]
    inversion = record["stages"]["inversion"]
    assert inversion["record"]["calls"] == inversion["dense"]["calls"] == 5
    recorded = record["stages"]["unet"]["record"]
    assert 2 * inversion["record"]["macs"] == pytest.approx(recorded["macs"], rel=0.05)
    assert inversion["sparse"]["calls"] == 0


def test_a_canvas_moves(here: Path) -> None:
    variants = [{"id": "right", "task": "pan", "by": [16, 0]}, {"id": "turned", "task": "rotate", "angle": 4}]
    records, watch = run(
        here, {"original": "photo.png", "prompt": "a meadow", "variants": variants}, tiny_sd15(), grow=0
    )
    assert watch.steps == watch.expected
    for record in records:
        assert (record["status"], record["way"], record["mask_source"]) == ("ok", "warm", "motion"), record["reason"]
        assert record["fidelity"]["outside_equal"]
    assert records[0]["edit_ratio"] == pytest.approx(16 / 96)


@pytest.mark.parametrize("way", ["alongside", "warm"])
def test_lines_change(way: str, here: Path) -> None:
    variants = [{"id": "box", "edited": "box.png"}]
    case = {"original": "plain.png", "prompt": "a meadow", "variants": variants}
    (record,), _ = run(here, case, controlled(tiny_sd15()), task="control", way=way)
    assert (record["status"], record["way"], record["steps_run"]) == ("ok", way, 5), record["reason"]
    assert record["fidelity"]["outside_equal"]
    assert record["control"]["changed_ratio"] == record["edit_ratio"] > 0
    for stage in ("controlnet", "unet", "decoder"):
        assert record["stages"][stage]["sparse"]["macs"] < record["stages"][stage]["dense"]["macs"]
    assert record["stages"]["encoder"]["dense"]["calls"] == 0


BAD = {
    "same words": (("photo.png", "--task", "prompt", "--prompt", "a tree", "--edit-prompt", "a tree"), "says the same"),
    "no step left": (
        (*WORDS, "--steps", "6", "--capture-steps", "4", "--last-dense", "2"),
        "leave none of 6",
    ),
    "steps left out upon a few": ((*WORDS, "--mask-from", "spread", "--record-steps", "4"), "leave out coarse, record"),
    "steps left out of a cold edit": ((*WORDS, "--mask-from", "spread", "--coarse", "4"), "leave out coarse, record"),
    "nothing to edit": (("--prompt", "a meadow"), "name a picture or a manifest"),
    "an edited picture": (("photo.png", *WORDS, "--edited", "box.png"), "prompt takes no edited picture"),
    "a size for a photo": (("photo.png", *WORDS, "--size", "64x64"), "size is for an original that is made"),
    "not a size": ((*WORDS, "--size", "64"), "must be width x height"),
    "alongside": ((*WORDS, "--way", "alongside"), "way warm or cold"),
    "a series upon a few steps": ((*WORDS, "--series", "--record-steps", "4"), "leave out record_steps"),
    "a cache": ((*WORDS, "--cache", "kept"), "a cache keeps recordings of tasks sdedit and inpaint"),
    "no pan": (("photo.png", "--task", "pan", "--by", "0,0"), "moves nothing"),
    "a pan beyond the canvas": (("photo.png", "--task", "pan", "--by", "96,0"), "leaves nothing of a picture of 96x64"),
    "not a pan": (("photo.png", "--task", "pan", "--by", "64"), "two whole numbers"),
    "an angle of 0": (("photo.png", "--task", "rotate", "--angle", "0"), "turns nothing"),
    "an angle for a pan": (("photo.png", "--task", "pan", "--angle", "5"), "angle goes with task rotate"),
    "no map": (("photo.png", "--task", "control", "--mask", "box.png"), "control needs an edited picture"),
    "a map of another size": (("photo.png", "--task", "control", "--edited", "small.png"), "must be the same"),
}


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    def call(*arguments: str) -> SimpleNamespace:
        code = cli.run(["edit", *arguments])
        output = capfd.readouterr()
        return SimpleNamespace(code=code, out=output.out, err=output.err)

    return call


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence(
    here: Path, call: Callable[..., SimpleNamespace], arguments: tuple[str, ...], sentence: str
) -> None:
    Image.new("RGB", (64, 64)).save("small.png")
    shown = call(*arguments)
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert (shown.code, shown.out, len(errors)) == (2, "", 1), shown.err
    assert sentence in errors[0]
    assert not (here / "runs").exists()


def test_a_plan_says_what_is_known(here: Path, call: Callable[..., SimpleNamespace]) -> None:
    shown = call(*WORDS, "--dry-run", "--json", "--quiet")
    assert shown.code == 0, shown.err
    (entry,) = json.loads(shown.out.splitlines()[-1])["plan"]
    assert (entry["width"], entry["edit_ratio"], entry["way"]) == (get_preset("demo").native_size, None, "warm")
    shown = call("photo.png", "--task", "pan", "--by", "16,0", "--dry-run", "--json", "--quiet")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out.splitlines()[-1])["settings"]["strength"] == 1.0


@pytest.mark.parametrize("name", ["prompt", "canvas", "control", "refine"])
def test_the_manifests_in_the_repository_are_whole(name: str) -> None:
    manifest = load_manifest(ROOT / "manifests" / f"{name}.yaml")
    jobs = plan_jobs(manifest, get_preset("demo").defaults, {}, {})
    check_inputs(jobs)
    assert {job.settings.way for job in jobs} == {"alongside" if name in ("control", "refine") else "warm"}


@pytest.mark.parametrize("original", [None, "photo.png"])
def test_words_upon_a_few_steps_of_their_original(here: Path, original: str | None) -> None:
    variants = [{"id": "house", "prompt": "a red house"}]
    case = {"prompt": "a meadow", "variants": variants} | ({"original": original} if original else {"size": "96x64"})
    for way, settings in (("cold", {"coarse": 3}), ("warm", {"record_steps": 3})):
        (here / way).mkdir()
        shutil.copy(here / "photo.png", here / way)
        defaults = {"task": "prompt", "capture_steps": 2, "grow": 0, "steps": 6}
        (record,), watch = run(here / way, case, tiny_sd15(), **defaults, **settings)
        assert watch.steps == watch.expected
        assert (record["status"], record["way"], record["dense_steps"]["count"]) == ("ok", way, 3)
        assert record["fidelity"]["outside_equal"] is True
        assert record["stages"]["unet"]["dense"]["calls"] == 6
