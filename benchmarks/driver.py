"""How many records a second the driver of a bench keeps, and what a case costs beside its models.

    make bench-driver                              # a minute
    python -m benchmarks.driver --cases 700        # and whether memory stays as it is (half an hour)
    python -m benchmarks.driver --edits 30 --rounds 1 --output /tmp/look    # whether it works; its rates mean little

* alone: one worker in this process that does nothing; a record is on the disk before the next one is made
* crowd: 1,000 such workers that are always done; what came while the driver wrote is written together
* ray: actors that do nothing, one to a core; what handing a case over and back takes
* opening: what a worker does with a case of the demo suite before its models run: drawing its pictures
* memory: real cases of the demo suite and model in three ways, of a few steps, looked at as `benchmarks.soak` does; in
  bfloat16 unless told, as full-size models run on a CPU: their packed weights are part of it

Records have the size of real ones. Leaves a document; the exit code is 1 where memory grew.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.machine import machine_slug
from benchmarks.soak import Sample, flat, growth
from sparsedit.bench.driver import drive
from sparsedit.bench.grid import Grid
from sparsedit.bench.heads import full_head
from sparsedit.bench.outcome import Outcome
from sparsedit.bench.plan import Task, Wanted, edits_of, plan_tasks
from sparsedit.bench.pool import Crew, LocalPool, Made, Pool
from sparsedit.bench.progress import Progress
from sparsedit.bench.ray_pool import RayPool, connected, places
from sparsedit.bench.worker import Worker
from sparsedit.environment import environment
from sparsedit.records import Record, stage_entry
from sparsedit.runs import RunFolder
from sparsedit.suites.catalogue import open_suite
from sparsedit.suites.edit import Suite

CROWD = 1000
WAYS = ("dense", "warm", "cold")
SETTINGS: dict[str, Any] = {"steps": 4, "strength": 0.8, "guidance": 3.0, "coarse": 2}
LOOKS = 70
WARM_UP = 0.4
"""Share of the cases after which memory is expected to stay: of 700, lengths of products are new until 250 or so."""
LEAST = 17
"""Cases of which enough samples are left behind the warm-up."""


def plan(suite: Suite, dtype: str = "auto") -> list[Task]:
    """The suite's edits on the demo model in three ways."""
    return plan_tasks(suite, Wanted(Grid(), WAYS, "demo", {}, SETTINGS | {"dtype": dtype}, {"demo": {}}))


def stub_record(task: Task, way: str) -> Record:
    """A record of an edit that nobody made, as large as one of an edit that was made."""
    entry = stage_entry(123_456_789_012, 12_345_678_901, [0.123456789012345] * 14, 14)
    stages = {stage: dict.fromkeys(("dense", "record", "sparse"), entry) for stage in ("text", "encoder", "unet")}
    scores = {"psnr": 41.23456789012345, "ssim": 0.987654321098765, "lpips": None, "mse": 1e-5, "identical": False}
    return full_head(task, way, None) | {
        "status": "ok",
        "reason": None,
        "stages": stages,
        "fidelity": {"protocol": "sparse-vs-dense", **dict.fromkeys(("inside", "mask", "whole"), scores)},
        "quality": {"protocol": "pnp-v1", **scores},
    }


def stub_outcomes(task: Task) -> list[Outcome]:
    return [Outcome(stub_record(task, way)) for way in task.ways]


class Idle:
    """A worker, here or as Ray's actor, that has the outcomes ready when it gets a task."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.ready = {task.edit.id: stub_outcomes(task) for task in tasks}

    def process(self) -> int:
        return os.getpid()

    def run(self, task: Task) -> Any:
        return self.ready[task.edit.id]


class Crowd:
    """Workers that are done with a case when they have it."""

    crew = Crew("stub", CROWD, 1)

    def __init__(self, idle: Idle) -> None:
        self.idle = idle

    def run(self, tasks: Iterator[Task]) -> Iterator[Sequence[Made]]:
        while cases := list(islice(tasks, CROWD)):
            yield [Made(task, self.idle.run(task)) for task in cases]


def throughput(tasks: Sequence[Task], pool: Pool, folder: Path, rounds: int) -> dict[str, Any]:
    """Records a second, driven into new folders one after the other."""
    rates = []
    for number in range(rounds):
        run = RunFolder.create(folder / f"{pool.crew.engine}-{number}", overwrite=False)
        start = time.perf_counter()
        drive(tasks, pool, run, Progress(Console(quiet=True), tasks))
        rates.append(edits_of(tasks) / (time.perf_counter() - start))
    size = run.records.stat().st_size / edits_of(tasks)
    return {"records_per_s": statistics.median(rates), "samples": rates, "bytes_per_record": size}


def handovers(tasks: Sequence[Task], pool: Pool) -> tuple[list[float], float]:
    """Seconds from handing a case over to its outcomes' being here, but for each worker's first, and cases a second."""
    since: dict[str, float] = {}
    samples, arrivals = [], []

    def handed() -> Iterator[Task]:
        for task in tasks:
            since[task.edit.id] = time.perf_counter()
            yield task

    for arrived in pool.run(handed()):
        now = time.perf_counter()
        done = [since[made.task.edit.id] for made in arrived if made.last]
        samples += [now - begun for begun in done]
        arrivals += [now] * len(done)
    return samples[pool.crew.workers :], (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])


def on_ray(tasks: Sequence[Task]) -> dict[str, Any]:
    """One actor, whose answers are timed one by one, then as many as there is room for, whose cases are counted."""
    with connected(None):
        hire, seats = places(Idle, (tasks,), threads=1)
        one, many = (RayPool(Crew("ray", workers, 1), hire, print) for workers in (1, seats))
        samples, _ = handovers(tasks, one)
        one.close()
        _, rate = handovers(tasks, many)
        many.close()
    return {"handover": spread(samples), "actors": seats, "cases_per_s": rate}


def opening(tasks: Sequence[Task]) -> list[float]:
    samples = []
    for task in tasks:
        start = time.perf_counter()
        task.edit.open()
        samples.append(time.perf_counter() - start)
    return samples[1:]


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(samples)
    return {"median_ms": 1e3 * statistics.median(ordered), "p95_ms": 1e3 * ordered[int(0.95 * len(ordered))]}


class Looks(Progress):
    """A progress that looks at the memory after every so many cases."""

    def __init__(self, console: Console, tasks: Sequence[Task], every: int) -> None:
        super().__init__(console, tasks)
        self.every = every
        self.samples: list[Sample] = []

    def end(self, task: Task) -> None:
        super().end(task)
        if self.done_cases % self.every == 0:
            self.samples.append(Sample.now(self.done_cases))


def memory(cases: int, dtype: str, folder: Path) -> list[Sample]:
    """What a process held while it made so many cases in three ways, pictures and all."""
    tasks = plan(open_suite("demo", limit=cases), dtype)
    run = RunFolder.create(folder / "run", overwrite=False)
    looks = Looks(Console(stderr=True), tasks, max(cases // LOOKS, 1))
    with looks:
        drive(tasks, LocalPool(Worker(pictures=True)), run, looks)
    return looks.samples


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=0, help="real ones, for memory; 700 show it")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of those cases")
    parser.add_argument("--edits", type=int, default=CROWD, help="that nobody makes, for the rates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="folder of the document")
    options = parser.parse_args(arguments)
    if 0 < options.cases < LEAST:
        parser.error(f"--cases: {options.cases} show no trend; {LEAST} at least")
    torch.set_num_threads(1)
    facts = environment()
    demo = plan(open_suite("demo", limit=options.edits))
    idle, crowded = Idle(demo), demo * 4
    document: dict[str, Any] = {"environment": facts}
    # The disk that results are written to, not one that may be memory.
    output = options.output or Path(__file__).parent / "results" / machine_slug(facts)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as place:
        document["alone"] = throughput(demo, LocalPool(idle), Path(place), options.rounds)
        document["crowd"] = {"workers": CROWD} | throughput(crowded, Crowd(idle), Path(place), options.rounds)
        document["ray"] = on_ray(demo)
        document["opening"] = spread(opening(demo[:50]))
        if options.cases:
            # A process of its own, as a bench has: this one has held a Ray cluster's threads and their heaps.
            one_thread: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)}
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), **one_thread) as alone:
                samples = alone.submit(memory, options.cases, options.dtype, Path(place)).result()
            found = growth(samples, WARM_UP)
            said = {"dtype": options.dtype, "growth": found, "flat": flat(found)}
            document["memory"] = said | {"samples": [asdict(each) for each in samples]}
    (output / "driver.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: part for name, part in document.items() if name not in ("environment", "memory")}))
    return 0 if document.get("memory", {"flat": True})["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
