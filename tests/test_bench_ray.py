"""A bench on Ray: the same records as in one process, whatever happens to its workers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsedit import cli
from sparsedit.bench.driver import drive
from sparsedit.bench.engine import check_engine, open_pool
from sparsedit.bench.plan import Task
from sparsedit.bench.pool import Crew, LocalPool
from sparsedit.bench.ray_pool import LOST, MOST_TRIES, RayPool
from sparsedit.bench.sessions import read_sessions
from sparsedit.bench.shard import Shard
from sparsedit.bench.worker import Worker
from sparsedit.errors import EngineError, ModelError, SettingsError
from sparsedit.records import Record, read_records
from sparsedit.runs import RunFolder
from tests.bench_folder import FLAGS, Watch, by_id, tasks_of, write_folder, write_model
from tests.ray_actors import Stub, Unable

ROOT = Path(__file__).parents[1]
WAYS = ("dense", "warm", "cold")
THREADS = torch.get_num_threads()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("suite") / "suite")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray of two machines, each with the cores of one worker."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster()
        for _ in range(2):
            nodes.add_node(num_cpus=THREADS, num_gpus=0, object_store_memory=100_000_000, include_dashboard=False)
        yield nodes.address
        nodes.shutdown()


@pytest.fixture
def joined(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engine ray is that cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", overwrite=False)


class Killing(Watch):
    """Kills a worker that is at work when the first record comes."""

    def __init__(self, pool: RayPool) -> None:
        super().__init__()
        self.pool = pool

    def finished(self, record: Record) -> None:
        if not self.records:
            [process, *_] = [seat.process for seat in self.pool.seats if seat.process and seat.runs]
            os.kill(process, signal.SIGKILL)
        super().finished(record)


def test_one_process_four_shards_and_ray_with_a_worker_killed_leave_the_same_records(
    model: Path, data: Path, joined: None, folder: RunFolder, tmp_path: Path
) -> None:
    tasks, worker = tasks_of(model, data, WAYS), Worker(pictures=False)
    whole, shards, said = Watch(), Watch(), list[str]()
    drive(tasks, LocalPool(worker), RunFolder.create(tmp_path / "one", overwrite=False), whole)
    for index in range(1, 5):
        part = RunFolder.create(tmp_path / str(index), overwrite=False)
        drive(Shard(index, 4).of(tasks), LocalPool(worker), part, shards)
    with open_pool("ray", tasks, pictures=False, say=said.append) as pool:
        assert isinstance(pool, RayPool)
        assert pool.crew == Crew("ray", 2, THREADS)
        drive(tasks, pool, folder, Killing(pool))
    assert len(said) == 1
    assert "is lost; another one runs it again" in said[0]
    records = read_records(folder.records)
    assert {record["status"] for record in records} == {"ok"}
    assert by_id(records) == by_id(shards.records) == by_id(whole.records)
    assert len(records) == len(tasks) * len(WAYS)
    [session] = read_sessions([folder])
    assert (session["engine"], session["workers"], session["threads"]) == ("ray", 2, THREADS)


def test_the_command_runs_on_ray_and_prints_its_tables_alone(
    model: Path, data: Path, joined: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "--suite", "folder", "--data", str(data), "-m", str(model), *FLAGS, "--ways", "dense,warm"]
    code = cli.run([*command, "--engine", "ray", "-o", str(tmp_path / "run"), "--ids", "a,b", "--json", "--quiet"])
    output = capfd.readouterr()
    assert (code, output.err) == (0, "")
    document = json.loads(output.out.splitlines()[-1])
    assert document["done"] == 4
    assert (tmp_path / "run" / "images" / "a" / "edit").is_dir()


# What becomes of workers, shown by ones that do nothing else


Stubs = Callable[..., RayPool]


@pytest.fixture
def stubs(cluster: str) -> Iterator[Stubs]:
    """Makes a pool of two actors of a class; what it says is in the list that is given with it."""
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(address=cluster, log_to_driver=False, configure_logging=False)
    signal.signal(signal.SIGTERM, on_sigterm)
    pools = []

    def stubs(said: list[str], kind: type[Stub] = Stub) -> RayPool:
        pool = RayPool(Crew("ray", 2, 1), ray.remote(kind).options(num_cpus=1).remote, said.append)
        pools.append(pool)
        return pool

    yield stubs
    for pool in pools:
        pool.close()
    ray.shutdown()


def named(tasks: Sequence[Task], *cases: str) -> list[Task]:
    return [replace(tasks[0], edit=replace(tasks[0].edit, case=case)) for case in cases]


def test_a_case_that_costs_every_worker_is_a_failed_record_and_the_rest_goes_on(
    model: Path, data: Path, stubs: Stubs, folder: RunFolder
) -> None:
    said: list[str] = []
    watch = Watch()
    drive(named(tasks_of(model, data, ["dense", "warm"]), "kill", "one", "two"), stubs(said), folder, watch)
    assert len(said) == MOST_TRIES - 1
    reasons = [record.get("reason") for record in watch.records]
    assert sorted(reasons, key=str) == [None] * 4 + [LOST] * 2
    lost = [record for record in read_records(folder.records) if record["status"] == "failed"]
    assert [(record["case"], record["bench"]["way"]) for record in lost] == [("kill", "dense"), ("kill", "warm")]


@pytest.mark.parametrize(("case", "error"), [("model", ModelError), ("defect", ZeroDivisionError)])
def test_what_ends_a_bench_here_ends_it_there(
    case: str, error: type[Exception], model: Path, data: Path, stubs: Stubs, folder: RunFolder
) -> None:
    with pytest.raises(error, match=r"no such model|a defect"):
        drive(named(tasks_of(model, data, ["warm"]), case), stubs([]), folder, Watch())
    assert read_records(folder.records) == []


def test_workers_that_cannot_start_end_the_bench_with_the_reason(
    model: Path, data: Path, stubs: Stubs, folder: RunFolder
) -> None:
    with pytest.raises(EngineError, match=r"can be started \(ModuleNotFoundError: No module named 'sparsedit'\)"):
        drive(tasks_of(model, data, ["warm"]), stubs([], Unable), folder, Watch())


def test_an_address_where_nobody_answers_is_refused_at_once(model: Path, data: Path) -> None:
    pytest.importorskip("ray")
    tasks = tasks_of(model, data, ["dense"])
    with (
        pytest.raises(EngineError, match=r"Ray at ray://127.0.0.1:9 cannot be used \(Connection refused\)"),
        open_pool("ray://127.0.0.1:9", tasks, pictures=False, say=print),
    ):
        pass


# Its own Ray


@pytest.mark.slow
def test_a_ray_of_its_own_ends_with_the_bench_and_leaves_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    """Terminated after its first record: the code is that of an interrupt, and what was done is kept."""
    pytest.importorskip("ray")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    before = set(Path("/tmp").glob("sparsedit-ray-*"))
    run = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "bench",
        "--suite",
        "folder",
        "--data",
        str(data),
        "-m",
        str(model),
    ]
    process = subprocess.Popen(
        [*command, *FLAGS, "--ways", "dense,warm", "--engine", "ray", "-o", str(run)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 300
    while not ((run / "records.jsonl").is_file() and (run / "records.jsonl").stat().st_size):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=120)
    assert (process.returncode, output) == (cli.INTERRUPTED, "")
    assert "edits that are kept: " in error
    assert "Traceback" not in error
    assert read_records(run / "records.jsonl")
    assert not (tmp_path / ".ray").exists()
    assert set(Path("/tmp").glob("sparsedit-ray-*")) == before


# Without it


@pytest.mark.parametrize("said", ["slurm", "ray:", "ray://", "ray://head", "local://head:1"])
def test_an_engine_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(SettingsError, match="use local, ray, or ray://HOST:PORT"):
        check_engine(said)


def test_engine_ray_without_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, package: str | None = None) -> Any:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert check_engine("local") == "local"
    with pytest.raises(SettingsError, match=r"pip install 'sparsedit\[ray\]'"):
        check_engine("ray")
