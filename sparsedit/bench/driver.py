"""Hands tasks to a pool of workers and keeps what comes back: pictures first, then the records.

The one place that writes to a bench's folder, whoever runs the tasks. All that has come back when it looks is written
with one wait for the disk: with one worker that is one record, with a thousand as many as came while it last wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from sparsedit.bench.outcome import Files, Outcome
from sparsedit.bench.plan import Task
from sparsedit.bench.pool import Pool
from sparsedit.bench.sessions import Session
from sparsedit.files import write_atomic
from sparsedit.records import Record, append_records
from sparsedit.runs import RunFolder


class Watch(Protocol):
    """Who is told how far a bench has come."""

    def begin(self, task: Task) -> None:
        """A task is begun."""

    def finished(self, record: Record) -> None:
        """A record has been written."""

    def end(self, task: Task) -> None:
        """A task is done."""


def drive(tasks: Iterable[Task], pool: Pool, folder: RunFolder, watch: Watch) -> None:
    """Run every task and write what comes of it; at the end, however it ends, also what it took.

    Raises InputError where the folder cannot be written, and what a pool raises when it cannot go on.
    """
    session = Session(pool.crew)
    try:
        for arrived in pool.run(_begun(tasks, watch, session)):
            outcomes = [outcome for made in arrived for outcome in made.outcomes]
            with session.writing():
                records = _write(outcomes, folder)
            session.add(outcomes)
            for record in records:
                watch.finished(record)
            for made in arrived:
                if made.last:
                    watch.end(made.task)
    finally:
        session.keep(folder)


def _begun(tasks: Iterable[Task], watch: Watch, session: Session) -> Iterator[Task]:
    for task in tasks:
        session.begin()
        watch.begin(task)
        yield task


def _write(outcomes: Sequence[Outcome], folder: RunFolder) -> list[Record]:
    for outcome in outcomes:
        if outcome.record["status"] == "ok":
            _save(outcome, folder)
    return append_records(folder.records, [outcome.record for outcome in outcomes])


def _save(outcome: Outcome, folder: RunFolder) -> None:
    own = str(outcome.record["images"]) if outcome.pictures or outcome.shared else ""
    shared, _, _ = own.rpartition("/")
    _put(outcome.pictures, folder, own)
    _put(outcome.shared, folder, shared, again=False)


def _put(pictures: Files, folder: RunFolder, where: str, *, again: bool = True) -> None:
    """Write pictures below the run's images, made anew or where they are not there; no folder for none."""
    case, _, rest = where.partition("/")
    for name, content in pictures.items():
        path = folder.images(case, rest) / f"{name}.png"
        if again or not path.exists():
            write_atomic(path, content)
