"""What a bench does, before anything of it is done: edits times configurations, each in its ways.

Everything that can be refused without opening a picture or loading a model is refused here. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsedit.bench.grid import Grid, label
from sparsedit.bench.ways import STEP_SKIP, settings_of
from sparsedit.calibration import plan_dense_steps
from sparsedit.errors import InputError, SettingsError
from sparsedit.jobs import case_seed, prompt_of_original
from sparsedit.settings import Settings, resolve
from sparsedit.suites.edit import DERIVED, GIVEN, TRACKS, Suite, SuiteEdit

TASKS = ("sdedit", "inpaint")

_PLACES = frozenset({"device", "cache", "cache_budget", "way"})
_LOADING = ("device", "dtype", "offload", "weights", "lora", "vae", "scheduler", "controlnet", "refiner")


@dataclass(frozen=True)
class Cell:
    """One configuration: a model and the settings that hold where a suite says nothing else.

    `name` tells it from the others of its bench; "" where it is the only one.
    """

    name: str
    model: str
    settings: Settings

    @property
    def configuration(self) -> str:
        """The hash of model and settings."""
        return _hash({"model": self.model, "settings": self.settings.model_dump(exclude=set(_PLACES))})

    @property
    def loading(self) -> tuple[Any, ...]:
        """What decides which weights are loaded, and how."""
        return (self.model, *(getattr(self.settings, key) for key in _LOADING))


@dataclass(frozen=True)
class Task:
    """One edit under one configuration, in the ways that are wanted of it.

    `settings` are those that hold for it, `skip` the dense steps of way step-skip, None for as many as cost what a cold
    edit costs.
    """

    suite: str
    edit: SuiteEdit
    cell: Cell
    settings: Settings
    track: str
    ways: tuple[str, ...]
    skip: int | None = None

    @property
    def prompt(self) -> str:
        """The prompt that the original runs under."""
        return prompt_of_original(self.edit.prompt, self.edit.edit_prompt, self.settings)

    @property
    def seed(self) -> int:
        return case_seed(self.settings.seed, self.edit.case)

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.edit.id, self.cell.name)))

    def record_id(self, way: str) -> str:
        """Hash of case, variant, way and configuration: the same work has the same id in every run."""
        what: dict[str, Any] = {
            "suite": self.suite,
            "case": self.edit.case,
            "variant": self.edit.variant,
            "prompts": [self.prompt, self.edit.edit_prompt],
            "model": self.cell.model,
            "settings": settings_of(way, self.settings).model_dump(exclude=set(_PLACES)),
            "track": self.track,
            "way": way,
        }
        if way == STEP_SKIP:
            what["skip"] = [self.skip, self.settings.coarse, self.settings.fidelity]
        return _hash(what)

    def without(self, done: Iterable[str]) -> Task | None:
        """The task with the ways that have no record among `done`; None where all have."""
        known = set(done)
        ways = tuple(way for way in self.ways if self.record_id(way) not in known)
        return replace(self, ways=ways) if ways else None


@dataclass(frozen=True)
class Wanted:
    """What is asked of a bench beside its suite."""

    grid: Grid
    ways: tuple[str, ...]
    model: str
    config: Mapping[str, Any]
    flags: Mapping[str, Any]
    defaults: Mapping[str, Mapping[str, Any]]
    track: str | None = None
    skip: int | None = None


def plan_tasks(suite: Suite, wanted: Wanted) -> list[Task]:
    """Every edit under every configuration, those of one model together.

    Settings: preset < suite < grid file < configuration file < flags. Raises SettingsError and InputError for what
    contradicts itself, naming the edit.
    """
    if "cache" in wanted.config or wanted.flags.get("cache"):
        raise SettingsError("a bench records every original anew; leave out cache")
    tasks = []
    for chosen in wanted.grid.cells:
        own = {key: value for key, value in chosen.items() if key != "model"}
        model = chosen.get("model", wanted.model)
        said = (wanted.grid.settings, own, wanted.config, wanted.flags)
        cell = Cell(label(chosen, wanted.grid.varied), model, resolve(wanted.defaults[model], suite.settings, *said))
        for edit in suite.edits:
            settings = resolve(wanted.defaults[model], suite.settings, *edit.settings, *said)
            _check_loading(edit, settings, cell)
            task = Task(suite.name, edit, cell, settings, _track(edit, wanted.track), wanted.ways, wanted.skip)
            _check(task)
            tasks.append(task)
    order = {loading: place for place, loading in enumerate(dict.fromkeys(task.cell.loading for task in tasks))}
    return sorted(tasks, key=lambda task: order[task.cell.loading])


def edits_of(tasks: Sequence[Task]) -> int:
    """How many records they make."""
    return sum(len(task.ways) for task in tasks)


def _track(edit: SuiteEdit, asked: str | None) -> str:
    track = asked or edit.track
    if track not in TRACKS:
        raise InputError(f"unknown track {track!r}: use {' or '.join(TRACKS)}")
    if track == GIVEN and not edit.has_mask:
        raise InputError(f"{edit.id}: track {GIVEN} needs a mask, and the suite has none")
    if track == DERIVED and not edit.has_edited:
        raise InputError(
            f"{edit.id}: track {DERIVED} needs an edited picture, and the suite has none; deriving a mask from "
            f"prompts alone is not done here: use --track {GIVEN}"
        )
    return track


def _check(task: Task) -> None:
    where, settings = task.label, task.settings
    if settings.task not in TASKS:
        raise SettingsError(f"{where}: a bench runs the tasks {' and '.join(TASKS)}, not {settings.task}")
    if settings.task == "sdedit" and not task.edit.has_edited:
        raise InputError(f"{where}: task sdedit needs an edited picture (inpaint needs a mask alone)")
    if settings.steps is None or settings.strength is None or settings.guidance is None:
        raise SettingsError(f"{where}: this model has no preset, so steps, strength and guidance must be given")
    if not settings.calls:
        raise SettingsError(f"{where}: {settings.steps} steps at strength {settings.strength:g} leave no step to run")
    if task.skip is not None and not 2 <= task.skip <= settings.calls:
        raise SettingsError(f"{where}: --skip-steps {task.skip} of {settings.calls} that are run: choose 2 and more")
    try:
        for way in task.ways:
            as_cold = way == STEP_SKIP and task.skip is None
            plan_dense_steps(settings_of("cold" if as_cold else way, settings))
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error


def _check_loading(edit: SuiteEdit, settings: Settings, cell: Cell) -> None:
    for key in _LOADING:
        if getattr(settings, key) != getattr(cell.settings, key):
            raise SettingsError(f"{edit.id}: {key} must be the same in all cases; say it for the whole bench")


def _hash(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
