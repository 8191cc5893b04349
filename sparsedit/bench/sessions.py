"""What a bench spent its time on, by the driver's clock: a line in `sessions.jsonl` each time it worked on a run.

Of what the workers had, their number times the clock's seconds less what loading took, models got a share. The rest is
bookkeeping: scores, other work on a case (drawing or reading its pictures, plans, counting, PNG), and the time between
cases, in which one worker waits for its record to be written, and one of many for others to finish.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sparsedit.bench.outcome import Outcome, Seconds
from sparsedit.bench.pool import Crew
from sparsedit.record_form import SessionForm, read_run
from sparsedit.records import SCHEMA, append_record
from sparsedit.report.numbers import duration, percent
from sparsedit.runs import RunFolder

Entry = Mapping[str, Any]


class Session:
    """Adds up what outcomes took, from the first task on; `now` is replaceable so that tests know the time."""

    def __init__(self, crew: Crew, now: Callable[[], float] = time.perf_counter) -> None:
        self.crew = crew
        self.now = now
        self.start: float | None = None
        self.records = 0
        self.spent = Seconds()
        self.ways: dict[str, float] = defaultdict(float)
        self.written = 0.0

    def begin(self) -> None:
        """A task is begun."""
        if self.start is None:
            self.start = self.now()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What the driver does in the block is writing."""
        start = self.now()
        try:
            yield
        finally:
            self.written += self.now() - start

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Outcomes that have been written."""
        for outcome in outcomes:
            self.records += 1
            self.spent += outcome.seconds
            self.ways[outcome.record["bench"]["way"]] += outcome.seconds.busy

    def entry(self) -> Entry:
        """The session so far: seconds of the clock, and by the workers' clocks what they did."""
        return {
            "schema": SCHEMA,
            **asdict(self.crew),
            "records": self.records,
            "seconds": 0.0 if self.start is None else self.now() - self.start,
            "writing": self.written,
            **asdict(self.spent),
            "ways": dict(self.ways),
        }

    def keep(self, folder: RunFolder) -> None:
        """Append the session to those of the run, if anything came of it. Raises InputError as `append_record`."""
        if self.records:
            append_record(folder.sessions, dict(self.entry()))


def read_sessions(folders: Iterable[RunFolder]) -> list[Entry]:
    """The sessions of several runs; one that was killed has none. Raises InputError for a damaged line."""
    files = [folder.sessions for folder in folders if folder.sessions.is_file()]
    return [entry for file in files for entry in read_run(file, SessionForm)]


def bookkeeping(sessions: Sequence[Entry]) -> float | None:
    """The share of everything but models, loading aside; None where nothing is known."""
    had = sum(map(_had, sessions))
    return 1 - _total(sessions, "model") / had if had > 0 else None


def describe(sessions: Sequence[Entry]) -> list[str]:
    """Where the time went, in a sentence; none where nothing is known."""
    had, share = sum(map(_had, sessions)), bookkeeping(sessions)
    if share is None:
        return []
    busy, model, scores, loading = (_total(sessions, name) for name in ("busy", "model", "scores", "loading"))
    on_cases = busy - loading
    parts = (("scores", scores), ("other work on cases", on_cases - model - scores), ("between cases", had - on_cases))
    listed = ", ".join(f"{name} {percent(seconds / had)}" for name, seconds in parts)
    taken = duration(_total(sessions, "seconds"))
    ways: dict[str, float] = defaultdict(float)
    for session in sessions:
        for way, seconds in session["ways"].items():
            ways[way] += seconds
    by_way = ", ".join(f"{way} {duration(seconds)}" for way, seconds in ways.items())
    return [
        f"bookkeeping {percent(share)} of {taken}, models the rest, loading them aside ({listed}); by way: {by_way}"
    ]


def _had(session: Entry) -> float:
    """The seconds that a session's workers had for cases."""
    seconds: float = session["seconds"] * session["workers"] - session["loading"]
    return seconds


def _total(sessions: Sequence[Entry], name: str) -> float:
    return sum(session[name] for session in sessions)
