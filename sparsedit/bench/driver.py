"""Hands tasks to a worker and keeps what comes back: pictures first, then the record, one by one.

The one place that writes to a bench's folder, whatever runs the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from sparsedit.bench.plan import Task
from sparsedit.records import Record, append_record
from sparsedit.runs import RunFolder

if TYPE_CHECKING:
    from PIL import Image

    from sparsedit.bench.worker import Outcome


class Runs(Protocol):
    """Whoever runs tasks."""

    def run(self, task: Task) -> Iterator[Outcome]:
        """An outcome for each of the task's ways."""


class Watch(Protocol):
    """Who is told how far a bench has come."""

    def begin(self, task: Task) -> None:
        """A task is begun."""

    def finished(self, record: Record) -> None:
        """A record has been written."""

    def end(self, task: Task) -> None:
        """A task is done."""


def drive(tasks: Iterable[Task], worker: Runs, folder: RunFolder, watch: Watch, *, pictures: bool) -> None:
    """Run every task and write what comes of it; with `pictures` those of every edit too.

    Raises InputError where the folder cannot be written, and what a worker raises when it cannot go on.
    """
    for task in tasks:
        watch.begin(task)
        for outcome in worker.run(task):
            if pictures and outcome.record["status"] == "ok":
                _save(folder, outcome)
            watch.finished(append_record(folder.records, outcome.record))
        watch.end(task)


def _save(folder: RunFolder, outcome: Outcome) -> None:
    own = str(outcome.record["images"])
    shared, _, _ = own.rpartition("/")
    _write(outcome.pictures, folder, own)
    _write(outcome.shared, folder, shared, again=False)


def _write(pictures: Mapping[str, Image.Image], folder: RunFolder, where: str, *, again: bool = True) -> None:
    """Write pictures below the run's images, made anew or where they are not there; no folder for none."""
    # Not at the top: it imports torch, which a driver of other processes does without.
    from sparsedit.images import save_image

    case, _, rest = where.partition("/")
    for name, picture in pictures.items():
        path = folder.images(case, rest) / f"{name}.png"
        if again or not path.exists():
            save_image(picture, path)
