"""How far a bench has come, on stderr: cases, edits an hour, the time left, and failures as they happen.

On a terminal a bar; elsewhere a line now and then, so that a log of 700 cases stays short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from sparsedit.bench.plan import Task, edits_of
from sparsedit.records import Record
from sparsedit.report.numbers import duration, figure
from sparsedit.report.text import printable

EVERY = 30.0
"""Seconds between two lines of a log, at least."""


class Progress:
    """Watches a bench of `tasks`; use it as a context manager. A quiet console shows nothing.

    `now` is replaceable so that tests know the time. The first case, which also loads the model, is left out of the
    rates as soon as there is another.
    """

    def __init__(self, console: Console, tasks: Sequence[Task], now: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.cases = len(tasks)
        self.edits = edits_of(tasks)
        self.now = now
        self.done_cases = self.done_edits = self.failed = 0
        self.start = self.said = self.case_start = now()
        self.ends: list[tuple[float, int]] = []
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID = self.bar.add_task("", total=self.cases, rest="")

    def __enter__(self) -> Progress:
        self.start = self.said = self.now()
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin(self, task: Task) -> None:
        self.case_start = self.now()
        self.bar.update(self.task, description=printable(task.label), rest=self.left())

    def finished(self, record: Record) -> None:
        self.done_edits += 1
        if record["status"] != "ok":
            self.failed += 1
            name = f"{record['case']}/{record['variant']} ({record['way']})"
            self.console.print(Text(printable(f"failed: {name}: {record['reason']}"), style="red"), soft_wrap=True)

    def end(self, task: Task) -> None:
        self.done_cases += 1
        self.ends.append((self.now(), self.done_edits))
        self.bar.update(self.task, completed=self.done_cases, rest=self.left())
        last = self.done_cases == self.cases
        if not self.console.is_terminal and (last or self.now() - self.said >= EVERY):
            self.said = self.now()
            failed = f", {self.failed} failed" if self.failed else ""
            self.console.print(f"{self.done_cases}/{self.cases} cases{failed}{self._rest()}", soft_wrap=True)

    def left(self) -> str:
        """Throughput and time left: "212 edits/h, 4 s a case, 2 min 05 s left"; "" before the first case is done."""
        if not self.ends:
            return ""
        since, edits = self.ends[0] if len(self.ends) > 1 else (self.start, 0)
        elapsed, cases = self.ends[-1][0] - since, len(self.ends) - (len(self.ends) > 1)
        if elapsed <= 0:
            return ""
        rate = (self.ends[-1][1] - edits) / elapsed * 3600
        said = f"{figure(rate)} edits/h, {figure(elapsed / cases)} s a case"
        rest = elapsed / cases * (self.cases - self.done_cases)
        return f"{said}, {duration(rest)} left" if rest else said

    def _rest(self) -> str:
        left = self.left()
        return left and f" ({left})"
