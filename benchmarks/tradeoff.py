"""What a first and an n-th edit lose for the time and the multiply-adds they save, every way in one picture.

    make bench-tradeoff                             four benches (they go on where they stopped), then this
    python -m benchmarks.tradeoff RUN...            the picture from benches' records alone

A bench runs the ways of one edit one after the other, next to the dense edit that all of them are compared with: so
ratios are taken edit by edit, within seconds, and averaged afterwards. The benches differ in what they vary: the ways
that have nothing to choose, the dense steps of cold edits (with step-skip at the same cost), the steps of short
recordings, and the policies of warm edits. First edits of large models that were timed (`benchmarks.first_edits`), on
whatever machine, are in the picture as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.first_edits import plotted
from benchmarks.machine import machine_slug
from benchmarks.tradeoff_plot import LargeModel, plot
from sparsedit.errors import InputError, SparseditError
from sparsedit.files import write_atomic
from sparsedit.record_form import read_environment
from sparsedit.records import Record, read_records
from sparsedit.report.summary import stage_macs
from sparsedit.runs import RunFolder

SMALLEST, LARGEST = 0.005, 0.12
"""Shares of edited pixels of the edits taken: the small ones that thin passes are for."""

Key = tuple[int, str, str, str]


@dataclass(frozen=True)
class Point:
    """The mean of some edits made one way: `speed` and `macs` are ratios over the dense edit's, `psnr` is in dB against
    it. `dense_steps` of the `steps` run densely, where that is fewer; `first` says that the original's run counts;
    `policy` names the masks' policy where it was varied."""

    steps: int
    way: str
    first: bool
    dense_steps: float | None
    psnr: float
    speed: float
    macs: float
    edits: int
    policy: str | None = None


def points(records: Iterable[Record]) -> list[Point]:
    """A point for every schedule, way and number of dense steps; ways that remember have one for the first edit and one
    for the n-th."""
    groups: dict[Key, dict[str, Record]] = defaultdict(dict)
    for record in records:
        if _counts(record):
            bench = record["bench"]
            kind = bench["way"]
            if kind == "warm" and record["dense_steps"]:
                kind = "record-steps"
            elif kind == "warm" and "policy=" in bench["cell"]:
                kind = "warm, by policy"
            groups[record["steps_run"], kind, bench["cell"], record["model"]][record["id"]] = record
    return [point for (_, kind, *_), own in sorted(groups.items()) for point in _of_a_way(kind, list(own.values()))]


def _counts(record: Record) -> bool:
    """Whether a record is of a small edit that was made some other way than densely, and scored."""
    if record["status"] != "ok" or "bench" not in record or record["bench"]["way"] == "dense":
        return False
    inside = (record["fidelity"] or {}).get("inside") or {}
    return SMALLEST < record["edit_ratio"] < LARGEST and inside.get("psnr") is not None


def _of_a_way(kind: str, records: Sequence[Record]) -> Iterator[Point]:
    common: dict[str, Any] = {
        "steps": records[0]["steps_run"],
        "way": kind,
        "policy": records[0]["policy"] if kind == "warm, by policy" else None,
        "dense_steps": _mean(_dense_steps(record) for record in records),
        "psnr": statistics.fmean(record["fidelity"]["inside"]["psnr"] for record in records),
        "edits": len(records),
    }
    for first in (True, False) if kind in ("warm", "record-steps") else (kind == "alongside",):
        ratios = [ratio for record in records if (ratio := _ratios(record, first=first))]
        if ratios:
            speeds, macs = zip(*ratios, strict=True)
            yield Point(first=first, speed=statistics.median(speeds), macs=statistics.median(macs), **common)


def _ratios(record: Record, *, first: bool) -> tuple[float, float] | None:
    """Seconds and the UNet's multiply-adds (convolutions and linears), dense over this way."""
    total, macs = (
        record["total"],
        {kind: stage_macs(record, "unet", kind) or 0 for kind in ("dense", "record", "sparse")},
    )
    own_s = (total["sparse_s"] or 0) + (total["record_s"] or 0) * first
    own_macs = macs["sparse"] + macs["record"] * first
    return (total["dense_s"] / own_s, macs["dense"] / own_macs) if total["dense_s"] and own_s and own_macs else None


def _dense_steps(record: Record) -> int | None:
    if record["bench"]["way"] == "step-skip":
        return int(record["stages"]["unet"]["sparse"]["calls"])
    return record["dense_steps"]["count"] if record["dense_steps"] else None


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def publish(runs: Sequence[Path], to: Path | None) -> None:
    """Write the points of benches of one machine and their picture. Raises InputError for runs that have none."""
    folders = [RunFolder.open(path) for path in runs]
    records = [record for folder in folders for record in read_records(folder.records)]
    made = points(records)
    if not made:
        raise InputError(f"no record of {', '.join(map(str, runs))} is of a small edit compared with a dense one")
    machine = read_environment(folders[0].path)
    if not machine:
        raise InputError(f"{folders[0].path} has no environment.json: it is no run")
    output = to or Path(__file__).parent / "results" / machine_slug(machine, records[0]["device"])
    output.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"schema": 1, "environment": machine, "points": [asdict(point) for point in made]}
    write_atomic(output / "tradeoff.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    plot(document["points"], large(output.parent), output / "tradeoff.png")


def large(results: Path) -> list[LargeModel]:
    """The large models that `benchmarks.first_edits` timed, on any machine, where it is known what edits are worth."""
    made = []
    for file in sorted(results.glob("*/first-edits.json")):
        for curve in json.loads(file.read_text(encoding="utf-8"))["curves"]:
            width, height = curve["size"]
            title = f"{curve['model']}, {width}x{height}, {curve['settings']['steps_run']} steps run, {curve['policy']}"
            made.append(LargeModel(f"{title}: seconds of {file.parent.name}, dB of the demo model", plotted(curve)))
    return [model for model in made if model.points]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tradeoff", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of benches of the same machine")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: benchmarks/results/MACHINE")
    asked = parser.parse_args(arguments)
    try:
        publish(asked.runs, asked.output)
    except SparseditError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
