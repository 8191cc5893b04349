"""A bench's run as a folder that is small enough to commit: its page, its tables, its records packed, no pictures.

    python -m benchmarks.publish runs/bench-demo         # to benchmarks/results/MACHINE/bench-demo

The page holds small pictures of some edits itself. `sparsedit report` makes all of it again from the unpacked records.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine_slug
from sparsedit.bench.sessions import describe, read_sessions
from sparsedit.errors import InputError, SparseditError
from sparsedit.files import write_atomic
from sparsedit.record_form import read_environment
from sparsedit.records import read_records
from sparsedit.report.bench import tables
from sparsedit.report.bench_text import bench_csv, bench_markdown
from sparsedit.report.summary import summarise
from sparsedit.runs import RunFolder

MOST_BYTES = 3_000_000
AS_THEY_ARE = ("report.html", "config.yaml", "environment.json", "sessions.jsonl")


def publish(run: Path, to: Path) -> int:
    """Write what is worth keeping of a run into the folder `to`, and return its size in bytes.

    Raises InputError for what is no run of a bench with its page, and where it would be larger than `MOST_BYTES`.
    """
    folder = RunFolder.open(run)
    if missing := [name for name in AS_THEY_ARE if not (run / name).is_file()]:
        raise InputError(f"{run} has no {missing[0]}; `sparsedit bench` leaves one, `sparsedit report` makes the page")
    records = read_records(folder.records)
    shown = tables(records, notes=describe(read_sessions([folder])))
    summary = summarise(records, read_environment(run))
    files = {name: (run / name).read_bytes() for name in AS_THEY_ARE} | {
        # No time and no name inside: the same records are the same bytes.
        "records.jsonl.gz": gzip.compress(folder.records.read_bytes(), mtime=0),
        "tables.md": f"{bench_markdown(shown, f'{run.name} · {summary.title}')}\n{summary.machine}\n".encode(),
        "tables.csv": bench_csv(shown).encode(),
    }
    size = sum(map(len, files.values()))
    if size > MOST_BYTES:
        raise InputError(f"{run} takes {size / 1e6:.1f} MB without its pictures; at most {MOST_BYTES / 1e6:g} are kept")
    to.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(to / name, content)
    return size


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, help="the folder; else results/MACHINE/RUN beside this script")
    options = parser.parse_args(arguments)
    try:
        facts = read_environment(options.run)
        if not facts:
            raise InputError(f"{options.run} has no environment.json: it is no run")
        results = Path(__file__).parent / "results"
        to = options.to or results / machine_slug(facts) / options.run.resolve().name
        size = publish(options.run, to)
    except SparseditError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"folder": str(to), "bytes": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
