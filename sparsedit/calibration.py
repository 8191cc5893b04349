"""How many dense steps a wished fidelity takes, from a table measured on the demo model (`benchmarks/coarse.py`).

The table knows a few schedules; for another one the nearest is read, by the share of its steps that are dense. Other
models and edits come out better or worse: the number says what the table promises, not what an edit will score.
Imports no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sparsedit.errors import SettingsError
from sparsedit.settings import Settings
from sparsedit.tasks.words import capture_steps

TABLE = Path(__file__).with_suffix(".json")
AUTO = 36.0
"""PSNR in dB, inside the edit against the dense one, that `auto` aims at: a difference hard to see."""
FEWEST = 2
"""Dense steps between which something can lie."""


@dataclass(frozen=True)
class DenseSteps:
    """How many of `total` steps are made densely (way cold) or recorded (way warm).

    Where a `fidelity` in dB was asked for, `expected` is what the table has for the number chosen.
    """

    count: int
    total: int
    fidelity: float | None = None
    expected: float | None = None

    def __str__(self) -> str:
        chosen = "" if self.expected is None else f", for {self.fidelity:g} dB"
        return f"{self.count} of {self.total} dense{chosen}"


def plan_dense_steps(settings: Settings) -> DenseSteps | None:
    """What the settings say of dense steps; None where every step is made or recorded.

    Raises SettingsError for settings that contradict each other or ask for what cannot be.
    """
    way, calls = settings.way, settings.calls
    for name, needed in (("coarse", "cold"), ("record_steps", "warm")):
        if getattr(settings, name) is not None and way != needed:
            raise SettingsError(f"{name} goes with way {needed}, not with way {way}")
    count = settings.coarse if way == "cold" else settings.record_steps
    if isinstance(count, int):
        if settings.fidelity is not None:
            raise SettingsError(f"fidelity chooses the number of dense steps, and {count} were asked for: give one")
        if count > calls:
            raise SettingsError(f"{count} dense steps were asked for, and only {calls} are run")
        return DenseSteps(count, calls)
    if way == "alongside" and settings.fidelity is not None:
        raise SettingsError("fidelity chooses the dense steps of way cold or warm; alongside makes every step")
    if settings.refiner is not None and (way == "cold" or settings.fidelity is not None):
        raise SettingsError("with a refiner every step is run: use way alongside, or warm without fidelity")
    if way == "cold" or settings.fidelity is not None:
        chosen = choose_steps(settings.fidelity or AUTO, calls, way)
        if settings.task != "prompt":
            return chosen
        # Its first steps are made one after the other, to find the mask; the table's lie evenly apart.
        more = capture_steps(settings.capture_steps, settings.last_dense, calls) - 1
        return replace(chosen, count=min(chosen.count + more, calls))
    return None


def choose_steps(fidelity: float, calls: int, way: str) -> DenseSteps:
    """The fewest dense steps of `calls` that reach `fidelity` in dB, for way "cold" or "warm" (steps recorded).

    Raises SettingsError where no measured number reaches it.
    """
    rows = _nearest(calls)
    score = "cold_inside" if way == "cold" else "record_inside"
    for row in rows:
        if row[score] >= fidelity:
            steps = max(FEWEST, math.ceil(row["dense_steps"] / row["steps"] * calls))
            return DenseSteps(min(steps, calls), calls, fidelity, row[score])
    best = max(row[score] for row in rows)
    raise SettingsError(
        f"no number of dense steps was measured to reach {fidelity:g} dB with way {way}, the best being {best:g} dB; "
        "ask for less, or run every step densely"
    )


def _nearest(calls: int) -> list[dict[str, Any]]:
    """The rows of the schedule whose number of steps is nearest, fewest dense steps first."""
    rows = _rows()
    steps = min({row["steps"] for row in rows}, key=lambda known: abs(math.log(known / calls)))
    return sorted((row for row in rows if row["steps"] == steps), key=lambda row: row["dense_steps"])


@cache
def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return rows
