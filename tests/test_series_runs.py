"""Series from the command line and from manifests: what they take, what they refuse, what their records say."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sparsedit import cli
from sparsedit.engines.local import check_inputs
from sparsedit.engines.steps import total_steps
from sparsedit.errors import ManifestError, SettingsError
from sparsedit.jobs import Job, plan_jobs
from sparsedit.manifest import load_manifest, single_case
from sparsedit.records import Record, macs_ratio
from tests.pipelines import tiny_sd15, tiny_sdxl
from tests.test_run import Watch, pictures, run

PRESET = {"steps": 4, "strength": 0.8, "guidance": 3.0}
CALLS = 3
PAINT = {"id": "paint", "edited": "painted.png"}
DOT = {"id": "dot", "edited": "dot.png", "prompt": "a house with a dot"}
BOTH = {"id": "both", "edited": "both.png"}
HOLES = ({"id": "hole", "mask": "hole.png", "prompt": "a tree"}, {"id": "other", "mask": "other.png"})

__all__ = ["pictures"]  # a fixture


@pytest.fixture(autouse=True)
def _drawn(pictures: Path) -> None:
    """Another stroke alone and with the first one, and another hole."""
    for name, before in (("dot", "original"), ("both", "painted")):
        pixels = np.asarray(Image.open(pictures / f"{before}.png")).copy()
        pixels[40:54, 66:84] = (30, 60, 200)
        Image.fromarray(pixels).save(pictures / f"{name}.png")
    hole = np.zeros((64, 96), dtype=np.uint8)
    hole[30:50, 50:66] = 255
    Image.fromarray(hole).save(pictures / "other.png")


def jobs_of(folder: Path, *variants: dict[str, Any], **said: Any) -> list[Job]:
    """With masks that reach little: in pictures as small as these a series' own would reach over all."""
    said = {"policy": "tight"} | said
    case = {"id": "one", "original": "original.png", "prompt": "a house", "series": True, "variants": list(variants)}
    path = folder / "manifest.yaml"
    path.write_text(json.dumps({"version": 1, "cases": [case | said]}))
    return plan_jobs(load_manifest(path), PRESET, {}, {})


class Shown:
    """The pictures of one edit of a run."""

    def __init__(self, folder: Path, record: Record) -> None:
        folder = folder / "images" / record["case"] / record["variant"]
        self.original, self.edited, self.mask, self.sparse = (
            np.asarray(Image.open(folder / f"{name}.png")) for name in ("original", "edited", "mask", "sparse")
        )


def test_every_edit_starts_from_the_result_of_the_one_before(pictures: Path, tmp_path: Path) -> None:
    jobs = jobs_of(pictures, PAINT, DOT, BOTH | {"id": "again"})
    check_inputs(jobs)
    records = run(jobs, tiny_sdxl(), tmp_path / "run")
    assert [record["series"] for record in records] == [{"position": place, "edits": 3} for place in (1, 2, 3)]
    assert [record["way"] for record in records] == ["warm", "warm", "none"], [record["reason"] for record in records]
    shown = [Shown(tmp_path / "run", record) for record in records]
    for before, after in pairwise(shown):
        assert np.array_equal(after.original, before.sparse)
        assert np.array_equal(after.sparse[after.mask == 0], before.sparse[after.mask == 0])
    assert all(record["fidelity"]["outside_equal"] for record in records)
    assert np.array_equal(shown[1].edited, np.asarray(Image.open(pictures / "both.png")))
    assert np.array_equal(shown[2].sparse, shown[1].sparse)
    assert [record["edit_prompt"] for record in records] == ["a house", "a house with a dot", "a house with a dot"]


@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_a_dense_pass_is_paid_for_once(task: str, pictures: Path, tmp_path: Path) -> None:
    variants = (PAINT, DOT) if task == "sdedit" else HOLES
    jobs, watch = jobs_of(pictures, *variants, task=task, dense=False), Watch()
    records = run(jobs, tiny_sdxl(), tmp_path / "run", watch)
    assert watch.steps == watch.expected == total_steps(jobs)
    unet = [record["stages"]["unet"] for record in records]
    dense = unet[0]["record"]["macs"]
    assert [(each["record"]["macs"], each["record"]["calls"]) for each in unet] == [(dense, CALLS), (0, 0)]
    passes = 1 if task == "sdedit" else 2  # what fills a hole runs once more, as a part of the photo
    assert all(0 < each["sparse"]["macs"] < dense and each["sparse"]["calls"] == passes * CALLS for each in unet)
    assert records[1]["total"]["record_s"] == 0
    assert (macs_ratio(records[1]) or 0) == 0


def test_the_same_words_twice_in_a_series_are_refused_before_anything_runs(pictures: Path) -> None:
    tree = {"prompt": "a tree"}
    jobs = jobs_of(pictures, {"id": "one"} | tree, {"id": "two"} | tree, task="prompt")
    with pytest.raises(SettingsError, match="says the same as the original's"):
        check_inputs(jobs)
    check_inputs(jobs_of(pictures, {"id": "one"} | tree, {"id": "two", "prompt": "a house"}, task="prompt"))


def test_motions_make_a_series_too(pictures: Path, tmp_path: Path) -> None:
    moves = ({"id": "right", "by": [8, 0]}, {"id": "up", "by": [0, -8]})
    jobs, watch = jobs_of(pictures, *moves, task="pan", grow=0), Watch()
    assert jobs[0].settings.norm == "original"
    check_inputs(jobs)
    records = run(jobs, tiny_sdxl(), tmp_path / "run", watch)
    assert watch.steps == watch.expected == total_steps(jobs)
    assert [(record["status"], record["way"]) for record in records] == [("ok", "warm")] * 2
    assert all(record["fidelity"]["outside_equal"] for record in records)
    assert all(record["fidelity"]["inside"]["psnr"] is not None for record in records)
    first, second = (Shown(tmp_path / "run", record) for record in records)
    assert np.array_equal(first.sparse[:, 8:], first.original[:, :-8])
    assert np.array_equal(second.sparse[:-8], first.sparse[8:])


def test_words_make_a_series_too(pictures: Path, tmp_path: Path) -> None:
    words = ({"id": "tree", "prompt": "a tree"}, {"id": "boat", "prompt": "a boat beside a tree", "mask": "other.png"})
    jobs, watch = jobs_of(pictures, *words, task="prompt"), Watch()
    check_inputs(jobs)
    records = run(jobs, tiny_sd15(), tmp_path / "run", watch)
    assert [record["status"] for record in records] == ["ok"] * 2, [record["reason"] for record in records]
    assert records[1]["way"] == "warm"
    first, second = (Shown(tmp_path / "run", record) for record in records)
    assert np.array_equal(second.original, first.sparse)
    assert np.array_equal(second.sparse[second.mask == 0], first.sparse[second.mask == 0])
    assert all(record["fidelity"]["outside_equal"] for record in records)


def test_a_record_is_known_by_what_came_before(pictures: Path) -> None:
    (one,), (other,), (plain,) = (
        jobs_of(pictures, *variants, **said)
        for variants, said in (
            ((PAINT, BOTH), {}),
            ((DOT, BOTH), {}),
            ((PAINT, BOTH), {"series": False, "way": "warm"}),
        )
    )
    ids = {job.record_id(job.variants[1], "tiny") for job in (one, other, plain)}
    assert len(ids) == 3
    assert plain.place(plain.variants[1]) is None


def test_an_edit_that_fails_ends_its_series(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SettingsError("this scheduler has had enough")

    jobs = jobs_of(pictures, PAINT, DOT, BOTH)
    pipe = tiny_sdxl()
    monkeypatch.setattr("sparsedit.ways.Renewing.write", fail)
    records = run(jobs, pipe, tmp_path / "run")
    assert [record["status"] for record in records] == ["failed"] * 3
    assert [record["series"]["position"] for record in records] == [1, 2, 3]


REFUSED: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], ...], str]] = {
    "alongside": ({"way": "alongside"}, (PAINT, DOT), "way warm, not alongside"),
    "cold": ({"coarse": 2}, (PAINT, DOT), "coarse goes with way cold"),
    "other settings": ({}, (PAINT, DOT | {"strength": 0.9, "seed": 3}), "these differ in strength, seed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_series_is_refused_before_anything_runs(name: str, pictures: Path) -> None:
    said, variants, reason = REFUSED[name]
    with pytest.raises((ManifestError, SettingsError), match=reason) as refusal:
        jobs_of(pictures, *variants, **said)
    assert "\n" not in str(refusal.value)


def test_a_series_needs_every_row(pictures: Path) -> None:
    manifest = single_case(pictures / "original.png", [pictures / "painted.png"], series=True)
    with pytest.raises(ManifestError, match="a series needs every row"):
        plan_jobs(manifest, PRESET, {}, {"cache_rows": "halo"})


def test_series_is_a_word_of_cases_alone(pictures: Path) -> None:
    path = pictures / "manifest.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "defaults": {"series": True}, "cases": []}))
    with pytest.raises(ManifestError, match="unknown key"):
        load_manifest(path)


def test_several_edits_on_the_command_line_are_a_series_if_asked(pictures: Path) -> None:
    edited = [pictures / "painted.png", pictures / "dot.png"]
    for series in (False, True):
        manifest = single_case(pictures / "original.png", edited, series=series)
        (job,) = plan_jobs(manifest, PRESET, {}, {})
        said = (job.case.series, job.settings.way, job.settings.norm)
        assert said == ((True, "warm", "updated") if series else (False, "alongside", "original"))
    assert cli.run(["edit", str(pictures / "manifest.yaml"), "--series"]) == 2


def test_the_manifest_of_a_series_is_one() -> None:
    (job,) = plan_jobs(load_manifest(Path(__file__).parents[1] / "manifests" / "series.yaml"), PRESET, {}, {})
    assert job.case.series
    assert len(job.variants) == 5
