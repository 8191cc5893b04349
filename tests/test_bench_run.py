"""A bench as it runs: its ways, its memory of what is done, and what kills, torn lines and other settings do to it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsedit import cli
from sparsedit.bench.driver import drive
from sparsedit.bench.outcome import Outcome
from sparsedit.bench.plan import Task
from sparsedit.bench.pool import LocalPool
from sparsedit.bench.sessions import read_sessions
from sparsedit.bench.signals import terminable
from sparsedit.bench.ways import WAYS
from sparsedit.bench.worker import Worker
from sparsedit.errors import InputError
from sparsedit.measure.ceilings import Ceilings
from sparsedit.records import Record, macs_ratio, read_records
from sparsedit.report.numbers import duration
from sparsedit.runs import RunFolder
from tests.bench_folder import FLAGS, Watch, by_id, tasks_of, write_folder, write_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("suite") / "suite")


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(pictures=True)


@pytest.fixture(autouse=True)
def nobodys_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def stub_record(name: str) -> Record:
    return {"schema": 1, "id": name, "status": "ok", "bench": {"way": "warm"}}


# What a case leaves


@pytest.fixture(scope="module")
def run(model: Path, data: Path, worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Every way of the suite."""
    folder = RunFolder.create(tmp_path_factory.mktemp("run") / "run", overwrite=False)
    drive(tasks_of(model, data, WAYS), LocalPool(worker), folder, Watch())
    return folder


def test_every_way_leaves_a_record(run: RunFolder) -> None:
    records = read_records(run.records)
    assert [(record["case"], record["bench"]["way"]) for record in records] == [(c, w) for c in "abc" for w in WAYS]
    for record in records:
        assert (record["status"], record["way"]) == ("ok", record["bench"]["way"])
        assert record["fidelity"]["outside_equal"] is not False
        assert record["quality"]["protocol"] == "pnp-v1"


def test_thin_ways_agree_and_cost_less(run: RunFolder) -> None:
    records = {(record["case"], record["way"]): record for record in read_records(run.records)}
    for case in "abc":
        dense, warm, alongside, cold = (records[case, way] for way in ("dense", "warm", "alongside", "cold"))
        assert dense["fidelity"]["inside"]["identical"]
        assert "sparse" not in dense["stages"]["unet"]
        assert warm["fidelity"]["inside"]["psnr"] == pytest.approx(alongside["fidelity"]["inside"]["psnr"], abs=0.5)
        assert (macs_ratio(warm) or 0) > (macs_ratio(cold) or 0) > 1
        # No way is spared the prompts that another one has encoded.
        assert warm["stages"]["text"]["sparse"]["calls"] + warm["stages"]["text"]["record"]["calls"] > 0


def test_step_skip_costs_what_a_cold_edit_does(run: RunFolder) -> None:
    records = {(record["case"], record["way"]): record for record in read_records(run.records)}
    for case in "abc":
        skip, cold = (records[case, way]["stages"]["unet"] for way in ("step-skip", "cold"))
        one = skip["dense"]["macs"] / skip["dense"]["calls"]
        assert skip["sparse"]["macs"] == one * skip["sparse"]["calls"]
        assert cold["sparse"]["macs"] <= skip["sparse"]["macs"] < cold["sparse"]["macs"] + one
        assert records[case, "step-skip"]["fidelity"]["inside"]["psnr"] is not None


def test_a_crop_keeps_the_photo_around_it(run: RunFolder) -> None:
    for record in read_records(run.records):
        if record["way"] != "crop":
            continue
        folder = run.path / "images" / record["images"]
        original, made = (
            np.asarray(Image.open(path)) for path in (folder.parent / "original.png", folder / "sparse.png")
        )
        mask = np.asarray(Image.open(folder.parent / "mask.png")) > 0
        assert np.array_equal(made[~mask], original[~mask])
        assert not np.array_equal(made[mask], original[mask])


def test_pictures_of_a_case_are_kept_once(run: RunFolder) -> None:
    [place] = (run.path / "images" / "a" / "edit").iterdir()
    names = {path.name for path in place.iterdir()}
    assert names == {"original.png", "edited.png", "mask.png", "dense.png", *WAYS[1:]}
    assert {path.name for path in (place / "warm").iterdir()} == {"sparse.png", "heat.png"}


def test_records_do_not_depend_on_order_or_company(
    run: RunFolder, model: Path, data: Path, worker: Worker, tmp_path: Path
) -> None:
    watch = Watch()
    tasks = tasks_of(model, data, WAYS)[::-2]
    drive(tasks, LocalPool(worker), RunFolder.create(tmp_path / "run", overwrite=False), watch)
    whole = by_id(read_records(run.records))
    assert by_id(watch.records) == {key: whole[key] for key in by_id(watch.records)}
    assert len(watch.records) == 2 * len(WAYS)


def test_a_way_that_cannot_run_is_a_record_with_its_reason(model: Path, worker: Worker, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "suite")
    shutil.copy(folder / "original" / "a.png", folder / "edited" / "a.png")
    [task, *_] = tasks_of(model, folder, ["dense", "warm", "crop"])
    dense, warm, crop = (outcome.record for outcome in worker.run(task))
    assert [record["status"] for record in (dense, warm, crop)] == ["ok", "ok", "failed"]
    assert warm["way"] == "none"
    assert "nothing to crop" in crop["reason"]


def test_an_edit_so_large_that_it_runs_densely_keeps_what_its_way_keeps(
    model: Path, worker: Worker, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "suite")
    edited = np.asarray(Image.open(folder / "original" / "a.png")).copy()
    edited[:, :70] = (200, 30, 30)
    Image.fromarray(edited).save(folder / "edited" / "a.png")
    [task, *_] = tasks_of(model, folder, ["warm", "cold"])
    warm, cold = (outcome.record for outcome in worker.run(task))
    assert [record["way"] for record in (warm, cold)] == ["dense", "dense"]
    assert [record["fidelity"]["outside_equal"] for record in (warm, cold)] == [True, None]


def test_a_picture_that_is_broken_fails_its_case_alone(model: Path, worker: Worker, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "suite")
    (folder / "edited" / "a.png").write_bytes(b"no picture")
    statuses = [
        outcome.record["status"] for task in tasks_of(model, folder, ["dense", "warm"]) for outcome in worker.run(task)
    ]
    assert statuses == ["failed"] * 2 + ["ok"] * 4


def test_a_full_disk_ends_the_bench_and_costs_the_record_in_hand(model: Path, data: Path, tmp_path: Path) -> None:
    class Stub:
        def run(self, task: Task) -> Iterator[Outcome]:
            yield Outcome(stub_record(task.edit.id))

    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    watch = Watch()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # room for one line and a half
    try:
        with pytest.raises(InputError, match="cannot be written"):
            drive(tasks_of(model, data, ["warm"]), LocalPool(Stub()), folder, watch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(watch.records) == 1
    assert read_records(folder.records) == watch.records
    assert folder.records.read_bytes().endswith(b"\n")


# Going on


Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(model: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Bench:
    """`sparsedit bench` on the suite into tmp_path/run, in this process: code, stdout and stderr."""

    def bench(*more: str, ways: str = "dense,warm", data: Path = data) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run(command(model, data, tmp_path / "run", ways) + list(more))
        output = capfd.readouterr()
        return code, output.out, output.err

    return bench


def command(model: Path, data: Path, run: Path, ways: str) -> list[str]:
    return ["bench", "--suite", "folder", "--data", str(data), "-m", str(model), *FLAGS,
            "--ways", ways, "-o", str(run), "--no-pictures", "--output-format", "json"]  # fmt: skip


def start(model: Path, data: Path, run: Path) -> subprocess.Popen[bytes]:
    """The same in a process of its own, when it has written its first record."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums differ with their number
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *command(model, data, run, "dense,warm")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 300
    while not ((run / "records.jsonl").is_file() and (run / "records.jsonl").stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


def test_a_killed_bench_goes_on_where_it_stopped(
    model: Path, data: Path, bench: Bench, run: RunFolder, tmp_path: Path
) -> None:
    process = start(model, data, tmp_path / "run")
    try:
        process.send_signal(signal.SIGSTOP)
        code, _, error = bench()
        assert code == 2
        assert "being written by another process" in error
    finally:
        process.kill()
        process.wait()
    records = tmp_path / "run" / "records.jsonl"
    kept = read_records(records)
    assert kept
    with records.open("a") as stream:
        stream.write('{"schema": 1, "id": "to')  # what a kill in the middle of a line leaves
    code, _, error = bench()
    assert code == 0
    assert "half written" in error
    after = read_records(records)
    assert after[: len(kept)] == kept
    whole = by_id(read_records(run.records))
    assert by_id(after) == {record["id"]: whole[record["id"]] for record in after}
    assert len(after) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bench_that_is_told_to_end_keeps_what_is_done(
    number: int, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Worker, task: Task) -> Iterator[Outcome]:
        yield Outcome(stub_record(task.edit.id))
        os.kill(os.getpid(), number)
        yield Outcome(stub_record("late"))

    monkeypatch.setattr(Worker, "run", run)
    handler = signal.getsignal(signal.SIGTERM)
    with terminable():  # as the process's entry does
        code, out, error = bench()
    assert (code, out) == (cli.INTERRUPTED, "")
    assert "edits that are kept: 1." in error
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [record["id"] for record in read_records(tmp_path / "run" / "records.jsonl")] == ["a"]


def test_a_rerun_does_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    code, out, error = bench(ways="dense")
    assert (code, json.loads(out)["done"]) == (0, 3)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["processor"]
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    code, out, error = bench(ways="dense,warm")
    assert "3 of them are done already" in error
    after = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert after.startswith(before)
    assert json.loads(out)["done"] == 6
    bench(ways="dense,warm")
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == after

    # The same folder is not continued under other settings, with other data, or where a record is damaged.
    code, out, error = bench("--steps", "9")
    assert (code, out) == (2, "")
    assert "cells.all edits.settings.steps: 6 then, 9 now" in error
    code, _, error = bench(data=write_folder(tmp_path / "suite"), ways="dense,warm")
    assert code == 0
    Image.new("RGB", (96, 64)).save(tmp_path / "suite" / "edited" / "a.png")
    code, _, error = bench(data=tmp_path / "suite")
    assert code == 2
    assert "data.files: " in error
    code, _, error = bench("--no-resume")
    assert code == 2
    assert "--overwrite" in error
    lines = after.split(b"\n")
    damaged = b"\n".join([lines[0], lines[1][:20], *lines[2:]])
    (tmp_path / "run" / "records.jsonl").write_bytes(damaged)
    code, _, error = bench()
    assert code == 2
    assert "line 2" in error
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == damaged


def test_a_bench_killed_at_its_beginning_or_its_end_goes_on(bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "records.jsonl").touch()  # killed before it said what it was asked
    assert bench("--dry-run", ways="dense")[0] == 0
    assert bench("--ids", "a", ways="dense")[0] == 0
    whole = (run / "sessions.jsonl").read_text()
    (run / "sessions.jsonl").write_text(whole + whole[:40])  # killed while it said what it had spent its time on
    code, out, _ = bench("--ids", "a,b", ways="dense")
    assert (code, json.loads(out)["done"]) == (0, 2)
    assert [session["records"] for session in read_sessions([RunFolder(run)])] == [1, 1]
    (run / "config.yaml").unlink()  # records that nobody knows the settings of
    code, _, error = bench("--ids", "a,b,c", ways="dense")
    assert code == 2
    assert "config.yaml cannot be read" in error


def test_shards_are_put_together(bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for part in ("1/2", "2/2"):
        assert bench("--shard", part)[0] == 0
    runs = [str(tmp_path / "run" / f"shard-{part}-of-2") for part in (1, 2)]
    assert [len(read_records(Path(run) / "records.jsonl")) for run in runs] == [4, 2]
    assert cli.run(["report", *runs, runs[0], "--output-format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["done"] == 6
    assert any("4 records are in" in note and "same scores" in note for note in document["notes"])
    counts = {line["track"]: line["count"] for line in document["lines"] if line["group"] == "all"}
    assert counts == {"mask-derived": 2, "mask-given": 1}  # tracks are never mixed


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Ceilings("a machine", "float32", 1000.0, 1e9, {})
    monkeypatch.setattr("sparsedit.measure.ceilings.kept_ceilings", lambda *_: machine)
    code, out, error = bench("--dry-run", ways="dense,warm,cold,crop")
    assert code == 0
    assert not (tmp_path / "run").exists()
    rows = {row["way"]: row for row in json.loads(out)["plan"]["rows"]}
    calls = {way: (row["whole_calls"], row["partial_calls"]) for way, row in rows.items()}
    assert calls == {"dense": (15, 0), "warm": (15, 15), "cold": (6, 15), "crop": (0, 15)}
    assert "memory" in error
    # Before the first edit there is only what whole calls take at the least.
    macs = {way: row["macs"] for way, row in rows.items()}
    assert macs["dense"] == macs["warm"] > 15 * 1000
    assert macs["crop"] == 0
    assert {way: row["least_seconds"] for way, row in rows.items()} == {
        way: count / 1000.0 if count else None for way, count in macs.items()
    }
    assert f"at least {duration(sum(macs.values()) / 1000)}, and known when every way has run once" in error

    # After one edit in every way there is what it took.
    assert bench("--ids", "a", ways="dense,warm")[0] == 0
    _, out, error = bench("--dry-run", ways="dense,warm")
    rows = {row["way"]: row for row in json.loads(out)["plan"]["rows"]}
    assert {way: row["edits"] for way, row in rows.items()} == {"dense": 2, "warm": 2}
    done = {record["way"]: record["total"] for record in read_records(tmp_path / "run" / "records.jsonl")}
    assert rows["dense"]["seconds"] == pytest.approx(
        2 * (done["dense"]["record_s"] or 0) + 2 * done["dense"]["sparse_s"]
    )
    assert "time: about" in error
