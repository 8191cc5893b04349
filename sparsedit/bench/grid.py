"""A grid of models and settings from a YAML file: every combination is one configuration.

version: 1
ways: [dense, warm, cold]            # what the command line does not say
settings: {steps: 20, guidance: 4}   # of all configurations
grid:                                # one configuration for each combination
  model: [demo, sdxl]
  policy: [tight, published]
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparsedit.documents import read_document
from sparsedit.errors import SettingsError, did_you_mean
from sparsedit.settings import Settings, resolve

MAX_CELLS = 1000

_Values = Annotated[list[Any], Field(min_length=1)]


@dataclass(frozen=True)
class Grid:
    """What a file says: combinations of models and settings, in the order of the file's keys."""

    cells: tuple[Mapping[str, Any], ...] = ({},)
    varied: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class _GridEntry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: Literal[1]
    ways: list[str] = []
    settings: Settings = Settings()
    grid: dict[str, _Values] = {}


def load_grid(path: Path) -> Grid:
    """The grid in a file. Raises SettingsError for what is no setting, of the wrong type, or too much."""
    entry = read_document(path, SettingsError).validate(_GridEntry)
    known = ("model", *Settings.model_fields)
    for key in entry.grid:
        if key not in known:
            raise SettingsError(f"{path}: grid: {key!r} is neither model nor a setting{did_you_mean(key, known)}")
        if key == "way":
            raise SettingsError(f"{path}: grid: the ways of a bench are its 'ways', not a setting of the grid")
    cells = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
    if len(cells) > MAX_CELLS:
        raise SettingsError(f"{path}: the grid has {len(cells)} combinations; at most {MAX_CELLS} are run")
    for cell in cells:
        if not isinstance(cell.get("model", ""), str):
            raise SettingsError(f"{path}: grid: a model is a name, not {cell['model']!r}")
        resolve({}, {key: value for key, value in cell.items() if key != "model"})
    varied = tuple(key for key, values in entry.grid.items() if len(values) > 1)
    return Grid(tuple(cells), varied, tuple(entry.ways), entry.settings.said())


def label(cell: Mapping[str, Any], varied: tuple[str, ...]) -> str:
    """What tells a cell from the others: "model=sdxl policy=tight"; "" where there is one."""
    return " ".join(f"{key}={cell[key]}" for key in varied)
