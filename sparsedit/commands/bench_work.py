"""What `bench` was asked for, made ready: suite, grid, configuration file and flags become tasks.

Everything that can be refused without opening a picture or loading a model is refused here. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsedit.bench.grid import Grid, load_grid
from sparsedit.bench.ledger import Config, configuration
from sparsedit.bench.plan import Cell, Task, Wanted, plan_tasks
from sparsedit.bench.shard import Shard, find_shard
from sparsedit.bench.ways import check_ways, parse_ways
from sparsedit.commands.work import DEFAULT_MODEL, check_model, preset_defaults, read_config, said_settings
from sparsedit.errors import InputError
from sparsedit.suites.catalogue import choose, open_suite
from sparsedit.suites.edit import Suite

if TYPE_CHECKING:
    from sparsedit.runs import RunFolder

DEFAULT_WAYS = ("dense", "warm", "cold")

# What of a machine makes two halves of a run incomparable when it differs.
_MACHINE = (("processor", "name"), ("packages", "torch"), ("packages", "diffusers"), ("commit",), ("threads",))


@dataclass(frozen=True)
class BenchWork:
    """The tasks of this process's part of a suite, and the folder they go to."""

    suite: Suite
    tasks: Sequence[Task]
    shard: Shard
    path: Path
    config: Config

    @property
    def cells(self) -> list[Cell]:
        return list({task.cell.configuration: task.cell for task in self.tasks}.values())

    def missing(self, done: Collection[str]) -> list[Task]:
        """What is left to do."""
        return [left for task in self.tasks if (left := task.without(done)) is not None]

    def describe(self, folder: RunFolder) -> Iterator[str]:
        """Write down where the run takes place, or say how this place differs from where it began."""
        from sparsedit.environment import environment

        file, now = folder.path / "environment.json", environment()
        if not file.exists():
            folder.write_environment(now | {"data": dict(self.suite.data), "shard": str(self.shard)})
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        for keys in _MACHINE:
            then, here = _at(before, keys), _at(now, keys)
            if then != here:
                yield f"{' '.join(keys)}: this run began with {then}, and goes on with {here}"


def plan_bench(options: Mapping[str, Any]) -> BenchWork:
    """The work that the command line `options`, by parameter name, ask for. Raises a SparseditError for whatever of it
    cannot be done."""
    config = read_config(options["config"])
    types, ids = (_words(options[key]) for key in ("types", "ids"))
    limit, chosen = options["limit"], bool(types or ids)
    suite = open_suite(
        options["suite"], options["data"], allow_outside=options["allow_outside"], limit=None if chosen else limit
    )
    grid = Grid() if options["grid"] is None else load_grid(options["grid"])
    model = options["model"] or config.pop("model", None) or suite.model or DEFAULT_MODEL
    if options["model"] and "model" in grid.cells[0]:
        raise InputError("--model cannot be given here: the grid names the models")
    models = {cell.get("model", model) for cell in grid.cells}
    for name in models:
        check_model(name)
    flags = said_settings(options)
    suite = choose(suite, types=types, ids=ids, limit=limit, seed=flags["seed"] or 0)
    wanted = Wanted(
        grid=grid,
        ways=_ways(options["ways"], grid),
        model=model,
        config=config,
        flags=flags,
        defaults={name: preset_defaults(name) for name in models},
        track=options["track"],
        skip=options["skip_steps"],
    )
    everything = plan_tasks(suite, wanted)
    if not everything:
        raise InputError("no edit of the suite is of these types and has these ids")
    shard = find_shard(options["shard"])
    own = {edit.id for edit in shard.of(suite.edits)}
    tasks = [task for task in everything if task.edit.id in own]
    asked = configuration(suite, everything, shard, options, wanted.ways)
    return BenchWork(suite, tasks, shard, _path(options["output"], shard, asked), asked)


def _ways(said: str | None, grid: Grid) -> tuple[str, ...]:
    return parse_ways(said) if said else check_ways(grid.ways or DEFAULT_WAYS)


def _path(output: Path | None, shard: Shard, asked: Config) -> Path:
    """Where a run goes: named by what it is asked, so that the same command finds it again."""
    fixed = {key: asked[key] for key in ("suite", "data", "track", "skip_steps", "cells")}
    name = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:8]
    path = output or Path("runs") / f"bench-{asked['suite']}-{name}"
    return path if shard.count == 1 else path / f"shard-{shard.index}-of-{shard.count}"


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _at(facts: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = facts
    for key in keys:
        value = (value or {}).get(key)
    return value
