"""Who runs the tasks of a bench: one worker in this process, or many elsewhere. What comes back is the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sparsedit.bench.outcome import Outcome
from sparsedit.bench.plan import Task


@dataclass(frozen=True)
class Crew:
    """The workers of a pool: where they run, how many they are, and torch's threads in each."""

    engine: str
    workers: int
    threads: int


@dataclass(frozen=True)
class Made:
    """Outcomes of a task, in the order of its ways; `last` where they are the last ones."""

    task: Task
    outcomes: Sequence[Outcome]
    last: bool = True


class Pool(Protocol):
    """Workers that tasks are handed to."""

    @property
    def crew(self) -> Crew:
        """Who they are."""

    def run(self, tasks: Iterator[Task]) -> Iterator[Sequence[Made]]:
        """Take a task whenever a worker is free, and yield what has come back, as soon as anything has.

        Raises a SparseditError where no task can be run, such as for a model that cannot be loaded.
        """


class Runs(Protocol):
    """Whoever runs one task."""

    def run(self, task: Task) -> Iterator[Outcome]:
        """An outcome for each of the task's ways."""


class LocalPool:
    """One worker in this process: an outcome is handed on before the next way begins."""

    def __init__(self, worker: Runs, threads: int = 1) -> None:
        self.worker = worker
        self.crew = Crew("local", 1, threads)

    def run(self, tasks: Iterator[Task]) -> Iterator[Sequence[Made]]:
        for task in tasks:
            for place, outcome in enumerate(self.worker.run(task), 1):
                yield [Made(task, [outcome], last=place == len(task.ways))]
