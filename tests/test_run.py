"""Jobs through the local engine: records, pictures, failures, and what they must not depend on."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from sparsedit.engines.local import check_inputs, run_jobs
from sparsedit.engines.steps import total_steps
from sparsedit.errors import InputError, ManifestError
from sparsedit.jobs import Job, case_seed, plan_jobs
from sparsedit.manifest import load_manifest
from sparsedit.records import Record, append_record, macs_ratio, read_records, speedup
from sparsedit.runs import RunFolder
from tests.pipelines import tiny_sdxl

PRESET = {"steps": 4, "strength": 0.8, "guidance": 3.0}


class Watch:
    def __init__(self) -> None:
        self.expected = 0
        self.steps = 0
        self.records: list[Record] = []

    def begin(self, label: str, steps: int) -> None:
        self.expected += steps

    def step(self) -> None:
        self.steps += 1

    def finished(self, record: Record) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_sdxl()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    original = Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)
    original.save(tmp_path / "original.png")
    painted = np.asarray(original).copy()
    painted[20:34, 30:52] = (200, 30, 30)
    Image.fromarray(painted).save(tmp_path / "painted.png")
    hole = np.zeros((64, 96), dtype=np.uint8)
    hole[20:40, 60:80] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    original.crop((0, 0, 90, 60)).save(tmp_path / "odd.png")
    return tmp_path


def manifest(folder: Path, cases: list[dict[str, Any]], **defaults: Any) -> list[Job]:
    path = folder / "manifest.yaml"
    path.write_text(json.dumps({"version": 1, "defaults": defaults, "cases": cases}))
    return plan_jobs(load_manifest(path), PRESET, {}, {})


def case(name: str, *variants: dict[str, Any], original: str = "original.png") -> dict[str, Any]:
    return {"id": name, "original": original, "prompt": "a house", "variants": list(variants)}


PAINT = {"id": "paint", "edited": "painted.png"}
HOLE = {"id": "hole", "mask": "hole.png", "task": "inpaint", "prompt": "a tree"}


def run(jobs: list[Job], pipe: DiffusionPipeline, folder: Path, watch: Watch | None = None) -> list[Record]:
    run_folder = RunFolder.create(folder, overwrite=False)
    return list(run_jobs(jobs, pipe, "tiny", run_folder, watch or Watch(), "manifest"))


@pytest.mark.parametrize("way", ["alongside", "warm"])
def test_a_run_leaves_records_and_pictures(way: str, pictures: Path, pipe: DiffusionPipeline, tmp_path: Path) -> None:
    jobs = manifest(pictures, [case("one", PAINT, HOLE)], way=way)
    check_inputs(jobs)
    watch = Watch()
    records = run(jobs, pipe, tmp_path / "run", watch)
    assert read_records(tmp_path / "run" / "records.jsonl") == records == watch.records
    assert watch.steps == watch.expected == total_steps(jobs)
    paint, hole = records
    for record in records:
        assert (record["status"], record["way"], record["fidelity"]["outside_equal"]) == ("ok", way, True)
        assert record["stages"]["unet"]["sparse"]["calls"] == 3
        assert (macs_ratio(record) or 0) > 2
        assert (speedup(record) or 0) > 0
        assert record["total"]["dense_s"] > 0
        assert record["total"]["record_s"] > 0
        assert record["memory"]["cache_bytes"] > 0
        assert all(record["fidelity"][region]["psnr"] > 0 for region in ("inside", "mask", "whole"))
        names = {path.name for path in (tmp_path / "run" / "images" / "one" / record["variant"]).iterdir()}
        assert names == {f"{name}.png" for name in ("original", "edited", "mask", "sparse", "dense", "heat")}
    assert (paint["mask_source"], hole["mask_source"]) == ("difference", "user")
    assert (paint["original_prompt"], hole["original_prompt"]) == ("a house", "a tree")
    assert hole["edit_ratio"] == pytest.approx(400 / (64 * 96))


def lasting(record: Record) -> Record:
    """A record without what the machine has to do with: seconds and memory."""
    stages = {
        name: {kind: entry and {**entry, "seconds": None} for kind, entry in passes.items()}
        for name, passes in record["stages"].items()
    }
    return record | {"stages": stages, "total": None, "memory": None}


@pytest.mark.parametrize("way", ["warm", "cold"])
def test_the_same_seed_gives_the_same_records_in_any_order(
    way: str, pictures: Path, pipe: DiffusionPipeline, tmp_path: Path
) -> None:
    cases = [case("one", PAINT), case("two", HOLE | {"prompt": "a house"})]
    coarse = {"coarse": 2} if way == "cold" else {}
    made = []
    for number, order in enumerate((cases, cases, cases[::-1])):
        records = run(manifest(pictures, order, way=way, dense=False, **coarse), pipe, tmp_path / str(number))
        made.append({record["case"]: lasting(record) for record in records})
    assert made[0] == made[1] == made[2]


def test_pictures_do_not_depend_on_order_or_company(pictures: Path, pipe: DiffusionPipeline, tmp_path: Path) -> None:
    cases = [case("one", PAINT), case("two", HOLE)]
    run(manifest(pictures, cases, dense=False), pipe, tmp_path / "a")
    run(manifest(pictures, cases[::-1], dense=False), pipe, tmp_path / "b")
    run(manifest(pictures, cases[1:], dense=False), pipe, tmp_path / "c")

    def picture(folder: str, name: str) -> bytes:
        return (tmp_path / folder / "images" / name / "sparse.png").read_bytes()

    assert picture("a", "one/paint") == picture("b", "one/paint")
    assert picture("a", "two/hole") == picture("b", "two/hole") == picture("c", "two/hole")


def test_a_case_that_fails_is_a_record_and_the_rest_goes_on(
    pictures: Path, pipe: DiffusionPipeline, tmp_path: Path
) -> None:
    odd = case("odd", {"id": "paint", "edited": "odd.png"})
    records = run(manifest(pictures, [odd, case("one", PAINT)]), pipe, tmp_path / "run")
    assert [record["status"] for record in records] == ["failed", "ok"]
    assert "the edited picture is 90x60, the original 96x64" in records[0]["reason"]


OUT_OF_MEMORY = [
    ("alongside", torch.OutOfMemoryError("CUDA out of memory")),
    ("warm", MemoryError()),
    ("warm", RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you ...")),
]


@pytest.mark.parametrize(("way", "error"), OUT_OF_MEMORY, ids=["GPU", "Python", "CPU"])
def test_a_case_that_runs_out_of_memory_is_a_record_and_what_it_held_is_freed(
    way: str, error: Exception, pictures: Path, tmp_path: Path
) -> None:
    pipe = tiny_sdxl()
    held: list[weakref.ref[torch.Tensor]] = []

    def run_out(_unet: object, args: tuple[Any, ...]) -> None:
        if not held:
            large = torch.ones(1000)
            held.append(weakref.ref(large))
            raise error

    pipe.unet.register_forward_pre_hook(run_out)
    records = run(manifest(pictures, [case("large", PAINT), case("one", PAINT)], way=way), pipe, tmp_path / "run")
    assert [record["status"] for record in records] == ["failed", "ok"]
    assert "out of memory; use a smaller picture" in records[0]["reason"]
    error.__traceback__ = None  # this test holds the exception, which a run does not
    assert held[0]() is None


def test_a_defect_ends_the_run(pictures: Path, tmp_path: Path) -> None:
    pipe = tiny_sdxl()
    pipe.unet.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(manifest(pictures, [case("one", PAINT)]), pipe, tmp_path / "run")


def test_weights_that_are_no_numbers_fail_the_case_with_a_sentence(pictures: Path, tmp_path: Path) -> None:
    pipe: Any = tiny_sdxl()
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    [record] = run(manifest(pictures, [case("one", PAINT)]), pipe, tmp_path / "run")
    assert (record["status"], record["fidelity"]) == ("failed", None)
    assert "latents that are not numbers" in record["reason"]


def test_an_empty_difference_is_said(pictures: Path, pipe: DiffusionPipeline, tmp_path: Path) -> None:
    same = case("same", {"id": "none", "edited": "original.png"})
    (record,) = run(manifest(pictures, [same], dense=False), pipe, tmp_path / "run")
    folder = tmp_path / "run" / "images" / "same" / "none"
    assert record["way"] == "none"
    assert "nothing differs" in record["reason"]
    assert np.array_equal(Image.open(folder / "sparse.png"), Image.open(folder / "original.png"))


def test_inputs_are_checked_before_anything_runs(pictures: Path) -> None:
    with pytest.raises(InputError, match="they must be the same"):
        check_inputs(manifest(pictures, [case("one", {"id": "odd", "edited": "odd.png"})]))
    with pytest.raises(ManifestError, match="needs an edited picture"):
        manifest(pictures, [case("one", {"id": "hole", "mask": "hole.png"})])


def test_variants_with_the_same_settings_share_an_original(pictures: Path) -> None:
    jobs = manifest(pictures, [case("one", PAINT, HOLE, PAINT | {"id": "again"}, PAINT | {"id": "more", "steps": 9})])
    assert [[variant.id for variant in job.variants] for job in jobs] == [["paint", "again"], ["hole"], ["more"]]


CONTEXTS = [
    ("sdedit", None, "a house"),
    ("sdedit", "self", "a tree"),
    ("inpaint", None, "a tree"),
    ("inpaint", "original", "a house"),
]


@pytest.mark.parametrize(("task", "context", "prompt"), CONTEXTS)
def test_the_context_says_which_prompt_the_original_runs_under(
    task: str, context: str | None, prompt: str, pictures: Path
) -> None:
    variant = HOLE | PAINT | {"task": task, "prompt": "a tree", "context": context}
    (job,) = manifest(pictures, [case("one", variant)])
    assert job.prompt == prompt


def test_the_seed_of_a_case_is_its_own() -> None:
    assert case_seed(0, "a") == case_seed(0, "a")
    assert len({case_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}) == 4


def test_records_hold_no_nan_and_say_which_line_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with pytest.raises(ValueError, match="JSON compliant"):
        append_record(path, {"schema": 1, "psnr": float("nan")})
    append_record(path, {"schema": 1})
    path.write_text(path.read_text() + "{torn\n")
    with pytest.raises(InputError, match="line 2"):
        read_records(path)


def test_a_run_never_takes_another_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not a run's folder"):
        RunFolder.create(tmp_path, overwrite=True)
    first = RunFolder.create(tmp_path / "run", overwrite=False)
    first.images("a", "b")
    append_record(first.records, {"schema": 1})
    with pytest.raises(InputError, match="--overwrite"):
        RunFolder.create(first.path, overwrite=False)
    assert read_records(RunFolder.create(first.path, overwrite=True).records) == []
    assert not (first.path / "images").exists()
