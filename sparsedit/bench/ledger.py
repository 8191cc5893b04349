"""A bench's folder as its memory: what was asked of it, what is done, and whether it may go on.

Only records count as done. A run is continued where its suite, its data and its configurations are those it began with;
more edits, more ways and other shards may join it, for they change no record that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsedit import __version__
from sparsedit.bench.plan import Cell, Task
from sparsedit.bench.shard import Shard
from sparsedit.discretion import discreet
from sparsedit.errors import InputError, shown
from sparsedit.record_form import read_run
from sparsedit.records import Record, mend_records
from sparsedit.runs import RunFolder
from sparsedit.suites.edit import Suite

_FIXED = ("suite", "data", "track", "skip_steps", "cells")
_SHOWN_DIFFERENCES = 8

Config = dict[str, Any]


def configuration(
    suite: Suite, tasks: Sequence[Task], shard: Shard, asked: Mapping[str, Any], ways: Sequence[str]
) -> Config:
    """What a bench is asked, resolved, as its config.yaml says it."""
    cells = {task.cell.name or "all edits": task.cell for task in tasks}
    return {
        "sparsedit": __version__,
        "suite": suite.name,
        "data": dict(suite.data),
        "track": asked["track"],
        "skip_steps": asked["skip_steps"],
        "ways": list(ways),
        "selection": {key: asked[key] for key in ("types", "ids", "limit")},
        "shard": str(shard),
        "cells": {name: _cell_entry(cell) for name, cell in cells.items()},
    }


@dataclass(frozen=True)
class Ledger:
    """The folder of a bench, with the records it had when it was opened; `mended` where the last was half written."""

    folder: RunFolder
    records: tuple[Record, ...] = ()
    mended: bool = False

    @property
    def done(self) -> frozenset[str]:
        return frozenset(record["id"] for record in self.records)


@contextmanager
def open_ledger(path: Path, config: Config, *, resume: bool, overwrite: bool) -> Iterator[Ledger]:
    """Begin a bench at `path`, or go on with the one that is there; no other process can meanwhile.

    Raises InputError where there is something else, where it may not be continued, naming what differs, where a record
    of it is damaged, naming the line, and where another process writes to it.
    """
    folder = RunFolder(path)
    with ExitStack() as locks:
        goes_on = _goes_on(folder, resume=resume, overwrite=overwrite)
        if folder.records.is_file():
            locks.enter_context(folder.held())
        if goes_on:
            check_same(path, config)
            mended = mend_records(folder.records)
            if folder.sessions.is_file():
                mend_records(folder.sessions)  # or what this session appends would be damage in the middle
            ledger = Ledger(folder, tuple(read_run(folder.records)), mended)
        else:
            ledger = Ledger(RunFolder.create(path, overwrite=overwrite))
            locks.enter_context(folder.held())
        folder.write_config(config)
        yield ledger


def look_into(path: Path, config: Config, *, resume: bool, overwrite: bool) -> Ledger:
    """What `open_ledger` would find, without writing anything. Raises as it does."""
    folder = RunFolder(path)
    if not _goes_on(folder, resume=resume, overwrite=overwrite):
        folder.check_free(overwrite=overwrite)
        return Ledger(folder)
    check_same(path, config)
    return Ledger(folder, tuple(read_run(folder.records)))


def check_same(path: Path, config: Config) -> None:
    """Raise InputError naming what differs between the bench at `path` and `config`.

    One that was killed before it wrote what it was asked is the same as any.
    """
    file = path / "config.yaml"
    if not file.exists() and not RunFolder(path).records.stat().st_size:
        return
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read ({error}); begin another run with --output") from None
    if not isinstance(before, dict) or "cells" not in before:
        raise InputError(f"{path} holds a run that is no bench; name another folder with --output")
    config = discreet(config)  # as it is written
    found = [line for key in _FIXED for line in _differences(key, before.get(key), config[key])]
    if found:
        more = len(found) - _SHOWN_DIFFERENCES
        listed = [*found[:_SHOWN_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
        what = (
            f"{path} was begun otherwise, so it is not continued (--output for another run, --overwrite for this one):"
        )
        raise InputError("\n  ".join([what, *listed]))


def _goes_on(folder: RunFolder, *, resume: bool, overwrite: bool) -> bool:
    return resume and not overwrite and folder.records.is_file()


def _differences(key: str, before: object, now: object) -> Iterator[str]:
    """Where two values differ, each place with both."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*before, *now)):
            yield from _differences(f"{key}.{name}", before.get(name), now.get(name))
    elif before != now:
        yield f"{key}: {shown(before)} then, {shown(now)} now"


def _cell_entry(cell: Cell) -> dict[str, Any]:
    return {"model": cell.model, "configuration": cell.configuration, "settings": cell.settings.model_dump()}
