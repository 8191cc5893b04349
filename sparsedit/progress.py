"""How far a run has come, on stderr: a bar with the time left on a terminal, a line per finished edit everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from sparsedit.records import Record
from sparsedit.report.numbers import duration, figure, times
from sparsedit.report.summary import summarise
from sparsedit.report.text import printable


class Progress:
    """Watches a run of `edits` edits and `steps` denoising steps; use it as a context manager.

    A quiet console shows nothing. `now` is replaceable so that tests know the time.
    """

    def __init__(self, console: Console, edits: int, steps: int, now: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.edits = edits
        self.steps = steps
        self.now = now
        self.start = now()
        self.done_edits = 0
        self.done_steps = 0
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID = self.bar.add_task("", total=steps, left="")

    def __enter__(self) -> Progress:
        self.start = self.now()
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin(self, label: str, steps: int) -> None:
        """A pass begins; its steps are counted already."""
        self.bar.update(self.task, description=printable(label))

    def step(self) -> None:
        """One denoising step is done."""
        self.done_steps = min(self.done_steps + 1, self.steps)
        self.bar.update(self.task, completed=self.done_steps, left=self.left())

    def finished(self, record: Record) -> None:
        """A record has been written: one line that stays."""
        self.done_edits += 1
        left = self.left() if self.done_edits < self.edits else ""
        line = f"{self.done_edits}/{self.edits} {_outcome(record)}{left and f' ({left})'}"
        self.console.print(Text(line), soft_wrap=True)

    def left(self) -> str:
        """The time left, if the steps to come are as fast as those done: "2 min 05 s left"; "" at the start."""
        if not self.done_steps:
            return ""
        share = self.done_steps / self.steps
        return f"{duration((self.now() - self.start) * (1 - share) / share)} left"


def _outcome(record: Record) -> str:
    [row] = summarise([record]).rows
    parts = ["failed" if row.failed else row.way or ""]
    if row.speedup is not None:
        parts.append(f"n-th edit {times(row.speedup)}")
    if row.inside_psnr is not None:
        parts.append(f"{figure(row.inside_psnr)} dB inside")
    return printable(f"{row.name}: {', '.join(parts)}")
