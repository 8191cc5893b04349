"""What drives a bench, with workers that do nothing: groups of records, where time went, what is kept of a run."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import driver as measured
from benchmarks import publish
from sparsedit import cli
from sparsedit.bench.driver import drive
from sparsedit.bench.outcome import Outcome, Seconds
from sparsedit.bench.plan import Task
from sparsedit.bench.pool import Crew, LocalPool, Made
from sparsedit.bench.progress import Progress
from sparsedit.bench.sessions import Session, bookkeeping, describe, read_sessions
from sparsedit.errors import InputError
from sparsedit.records import read_records
from sparsedit.runs import RunFolder
from sparsedit.suites.catalogue import open_suite
from tests.bench_folder import Watch


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return measured.plan(open_suite("demo", limit=12))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", overwrite=False)


class Groups:
    """A pool from which so many cases come at once."""

    crew = Crew("stub", 4, 1)

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, tasks: Iterator[Task]) -> Iterator[Sequence[Made]]:
        waiting = list(tasks)
        for start in range(0, len(waiting), self.size):
            yield [Made(task, measured.stub_outcomes(task)) for task in waiting[start : start + self.size]]


@pytest.mark.parametrize(("size", "waits"), [(1, 12), (5, 3), (12, 1)])
def test_what_comes_together_waits_for_the_disk_once(
    size: int, waits: int, tasks: list[Task], folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or sync(file))
    watch = Watch()
    drive(tasks, Groups(size), folder, watch)
    assert synced.count(str(folder.records)) == waits
    assert [record["id"] for record in read_records(folder.records)] == [
        task.record_id(way) for task in tasks for way in task.ways
    ]
    assert read_records(folder.records) == watch.records


def test_a_full_disk_costs_the_group_in_hand(tasks: list[Task], folder: RunFolder) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    of_a_case = sum(len(json.dumps(outcome.record)) + 1 for outcome in measured.stub_outcomes(tasks[0]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (7 * of_a_case, limits[1]))
    try:
        with pytest.raises(InputError, match=r"records.jsonl cannot be written \(File too large\)"):
            drive(tasks, Groups(5), folder, Watch())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(read_records(folder.records)) == 5 * 3
    assert folder.records.read_bytes().endswith(b"\n")


def test_a_session_says_what_workers_spent_their_time_on(tasks: list[Task], folder: RunFolder) -> None:
    time = 100.0
    session = Session(Crew("ray", 2, 1), now=lambda: time)
    time += 50  # before the first task, workers only start
    session.begin()
    for _ in range(2):
        outcomes = [Outcome(measured.stub_record(tasks[0], "warm"), seconds=Seconds(10.0, 7.0, 1.0, 1.5))]
        with session.writing():
            time += 1
        session.add(outcomes)
    time += 10
    session.keep(folder)
    [entry] = read_sessions([folder])
    assert (entry["seconds"], entry["writing"], entry["records"], entry["ways"]) == (12.0, 2.0, 2, {"warm": 20.0})
    # Two workers for 12 s, of which loading took 3: of 21 s models had 14, scores 2, other work 1; 4 were between.
    assert bookkeeping([entry]) == pytest.approx(1 / 3)
    assert describe([entry]) == [
        "bookkeeping 33.3% of 12 s, models the rest, loading them aside (scores 9.52%, other work on cases 4.76%, "
        "between cases 19%); by way: warm 20 s"
    ]
    assert describe([]) == []


def test_an_interrupted_session_is_kept_and_an_empty_one_is_not(tasks: list[Task], folder: RunFolder) -> None:
    class Interrupting(Watch):
        def end(self, task: Task) -> None:
            raise KeyboardInterrupt

    drive([], Groups(1), folder, Watch())
    assert not folder.sessions.exists()
    with pytest.raises(KeyboardInterrupt):
        drive(tasks, Groups(1), folder, Interrupting())
    drive(tasks[1:], Groups(4), folder, Watch())
    assert [entry["records"] for entry in read_sessions([folder])] == [3, 33]


def test_tasks_of_every_suite_go_to_other_processes(tmp_path: Path, tasks: list[Task]) -> None:
    again = pickle.loads(pickle.dumps(tasks[0]))
    assert again.record_id("warm") == tasks[0].record_id("warm")
    assert again.edit.open().original.tobytes() == tasks[0].edit.open().original.tobytes()


# What is measured and published


def test_the_benchmark_of_the_driver_counts_every_case_once(tasks: list[Task], tmp_path: Path) -> None:
    idle = measured.Idle(tasks)
    found = measured.throughput(tasks, measured.Crowd(idle), tmp_path, rounds=2)
    assert found["records_per_s"] > 0
    assert 3000 < found["bytes_per_record"] < 6000  # a real one has four to five thousand
    assert len(found["samples"]) == 2
    samples, rate = measured.handovers(tasks, LocalPool(idle))
    assert len(samples) == len(tasks) - 1
    assert rate > 0


@pytest.mark.slow
def test_memory_is_looked_at_while_real_cases_are_made(tmp_path: Path) -> None:
    samples = measured.memory(4, "bfloat16", tmp_path)
    assert [sample.edits for sample in samples] == [1, 2, 3, 4]
    records = read_records(tmp_path / "run" / "records.jsonl")
    assert [(record["status"], record["dtype"]) for record in records] == [("ok", "bfloat16")] * 12


def test_what_is_published_of_a_run_is_small_and_whole(
    tasks: list[Task], folder: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(Console(quiet=True), tasks) as progress:
        drive(tasks, Groups(4), folder, progress)
    folder.write_config({"suite": "demo"})
    to = tmp_path / "published"
    with pytest.raises(InputError, match=r"has no report.html|has no environment.json"):
        publish.publish(folder.path, to)
    folder.write_environment({"processor": {"name": "AMD EPYC", "cores": 2}})
    assert cli.run(["report", str(folder.path), "--quiet"]) == 0
    capfd.readouterr()
    assert publish.main([str(folder.path), "--to", str(to)]) == 0
    said = json.loads(capfd.readouterr().out)
    names = {
        "report.html",
        "config.yaml",
        "environment.json",
        "sessions.jsonl",
        "records.jsonl.gz",
        "tables.md",
        "tables.csv",
    }
    assert {path.name for path in to.iterdir()} == names
    assert said == {"folder": str(to), "bytes": sum(path.stat().st_size for path in to.iterdir())}
    packed = (to / "records.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == folder.records.read_bytes()
    assert "bookkeeping" in (to / "tables.md").read_text(encoding="utf-8")
    publish.publish(folder.path, to)
    assert (to / "records.jsonl.gz").read_bytes() == packed
