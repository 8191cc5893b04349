"""What is left of a bench, for `--dry-run`: calls, multiply-adds, memory, and time as far as it is known.

Times are those of the edits that the run's folder has already; before the first there is only what whole calls take at
the very least, at the rate of the machine's fastest matrix product, where a profile has measured that. Multiply-adds
are those of whole UNet calls: what partial ones cost depends on every mask, and is counted when they run. Opens one
picture of each model, loads no weights and times nothing.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sparsedit.bench.plan import Cell, Task
from sparsedit.bench.ways import CROP, DENSE, STEP_SKIP, settings_of
from sparsedit.calibration import plan_dense_steps
from sparsedit.errors import SparseditError
from sparsedit.records import Record
from sparsedit.report.numbers import NONE, duration, giga, size_of
from sparsedit.report.text import Cell as Value
from sparsedit.report.text import to_csv

HEADINGS = ("configuration", "way", "edits", "whole calls", "partial calls", "UNet GMACs, whole calls", "time")

_NEEDS = ("dtype", "weight_bytes", "peak_bytes", "cache_bytes", "call_macs", "macs_per_second")

Entry = dict[str, Any]


def forecast(tasks: Sequence[Task], done: Sequence[Record]) -> Entry:
    """What the tasks will take, by configuration and way; `done` are the records there are already."""
    by_cell: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_cell[task.cell.configuration].append(task)
    rows, memory = [], []
    for own in by_cell.values():
        cell = own[0].cell
        need = _need(own[0])
        memory.append({"configuration": cell.configuration, "model": cell.model} | need)
        for way in dict.fromkeys(way for task in own for way in task.ways):
            rows.append(_row(cell, way, [task for task in own if way in task.ways], need, done))
        compared = [task for task in own if DENSE not in task.ways and task.settings.dense]
        if compared:
            rows.append(_row(cell, DENSE, compared, need, done) | {"way": "dense, to compare with"})
    return {"rows": rows, "memory": memory}


def forecast_rows(plan: Entry) -> list[list[str]]:
    """The plan under `HEADINGS`, as it is read."""
    return [
        [
            row["cell"] or row["model"],
            row["way"],
            str(row["edits"]),
            str(row["whole_calls"]) + ("+" if row["at_least"] else ""),
            str(row["partial_calls"]),
            giga(row["macs"]),
            _time(row),
        ]
        for row in plan["rows"]
    ]


def forecast_csv(plan: Entry) -> str:
    rows: list[Mapping[str, Value]] = plan["rows"]
    return to_csv(rows)


def notes(plan: Entry) -> list[str]:
    """Time in total and memory, in sentences."""
    known = [row["seconds"] for row in plan["rows"]]
    said = []
    if known and None not in known:
        said.append(f"time: about {duration(sum(known))}, as the edits took that are done")
    elif known:
        least = sum(row["seconds"] or row["least_seconds"] or 0.0 for row in plan["rows"])
        floor = f"at least {duration(least)}, and " if least else ""
        what = " (least: whole UNet calls alone, at the rate of this machine's fastest matrix product)" if least else ""
        said.append(f"time: {floor}known when every way has run once in this folder{what}")
    for need in plan["memory"]:
        if need["missing"]:
            said.append(f"{need['model']}: memory is not known ({need['missing']})")
            continue
        said.append(
            f"{need['model']}: about {size_of(need['peak_bytes'])} of memory (weights {size_of(need['weight_bytes'])} "
            f"in {need['dtype']}), and {size_of(need['cache_bytes'])} of remembered activations"
        )
    return said


def _time(row: Entry) -> str:
    if row["seconds"] is not None:
        return duration(row["seconds"])
    return f"at least {duration(row['least_seconds'])}" if row["least_seconds"] else NONE


def _row(cell: Cell, way: str, tasks: Sequence[Task], need: Entry, done: Sequence[Record]) -> Entry:
    whole, partial = (sum(column) for column in zip(*(_calls(task, way) for task in tasks), strict=True))
    seconds = _seconds(cell, way, done)
    macs, rate = None if need["call_macs"] is None else whole * need["call_macs"], need["macs_per_second"]
    return {
        "cell": cell.name,
        "configuration": cell.configuration,
        "model": cell.model,
        "way": way,
        "edits": len(tasks),
        "whole_calls": whole,
        "partial_calls": partial,
        "at_least": way == STEP_SKIP and tasks[0].skip is None,
        "macs": macs,
        "seconds": None if seconds is None else seconds * len(tasks),
        "least_seconds": macs / rate if macs and rate else None,
    }


def _calls(task: Task, way: str) -> tuple[int, int]:
    """UNet calls on the whole picture, and on a part of it."""
    calls = task.settings.calls
    planned = plan_dense_steps(settings_of("cold" if way == STEP_SKIP else way, task.settings))
    few = planned.count if planned else calls
    if way == STEP_SKIP:
        return task.skip or few, 0
    return {DENSE: (calls, 0), CROP: (0, calls), "alongside": (calls, calls)}.get(way, (few, calls))


def _seconds(cell: Cell, way: str, done: Sequence[Record]) -> float | None:
    """The mean of what an edit took in this way, all that it needed included."""
    totals = [
        record["total"]
        for record in done
        if record["status"] == "ok"
        and record["bench"]["configuration"] == cell.configuration
        and record["bench"]["way"] == way
    ]
    return statistics.fmean((total["record_s"] or 0) + total["sparse_s"] for total in totals) if totals else None


def _need(task: Task) -> Entry:
    """Bytes, multiply-adds of one UNet call for a picture of the size of the task's, and how many the machine makes."""
    from sparsedit.measure.ceilings import kept_ceilings
    from sparsedit.measure.estimate import estimate_memory
    from sparsedit.measure.twin import Twin
    from sparsedit.models.loading import empty_pipeline
    from sparsedit.models.placement import resolve_device
    from sparsedit.stages import Stages

    settings = task.settings
    nothing: Entry = dict.fromkeys(_NEEDS)
    try:
        width, height = task.edit.open().original.size
        parts = {"vae": settings.vae, "controlnet": settings.controlnet}
        pipe: Any = empty_pipeline(task.cell.model, settings.dtype, settings.device, **parts)
        guided = (settings.guidance or 0) > 1
        need = estimate_memory(pipe, height, width, guided=guided)
        twin = Twin(Stages(pipe), height, width, 2 if guided else 1)
        macs = twin.schedule("unet", 1).macs
        fastest = kept_ceilings(resolve_device(settings.device), pipe.dtype)
    except SparseditError as error:
        return nothing | {"missing": str(error)}
    return {
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "weight_bytes": sum(need.weights.values()),
        "peak_bytes": need.peak,
        "cache_bytes": need.recording(settings.calls if "warm" in task.ways else 1),
        "call_macs": macs,
        "macs_per_second": fastest and fastest.macs_per_second,
        "missing": None,
    }
