"""A suite of small pictures in a folder, a tiny model on the disk to run it with, and what a bench of them leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparsedit.bench.grid import Grid
from sparsedit.bench.plan import Task, Wanted, plan_tasks
from sparsedit.records import Record
from sparsedit.suites.catalogue import open_suite
from tests.pipelines import tiny_sd15

LINES = ("name,prompt,edit_prompt,edit_type", "a,a house,a red house,add object", "b,a tree,,add object",
         '"c","a lake, calm",a sea,delete object')  # fmt: skip
SETTINGS = {"steps": 6, "strength": 0.85, "guidance": 3.0, "coarse": 2}
FLAGS = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]


def write_folder(folder: Path) -> Path:
    """Three originals of 96x64: a and b have strokes on them, c a hole."""
    for kind in ("original", "edited", "masks"):
        (folder / kind).mkdir(parents=True)
    for seed, name in enumerate("abc"):
        noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        original = Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)
        original.save(folder / "original" / f"{name}.png")
        if name == "c":
            hole = np.zeros((64, 96), dtype=np.uint8)
            hole[20:34, 60:74] = 255
            Image.fromarray(hole).save(folder / "masks" / "c.png")
        else:
            painted = np.asarray(original).copy()
            painted[20:34, 30:44] = (200, 30, 30)
            Image.fromarray(painted).save(folder / "edited" / f"{name}.png")
    (folder / "prompts.csv").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return folder


def write_model(folder: Path) -> Path:
    """A model without a preset: its steps, strength and guidance have to be said."""
    tiny_sd15().save_pretrained(folder)
    return folder


class Watch:
    """Remembers the records it was told of."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def begin(self, task: Task) -> None:
        pass

    def finished(self, record: Record) -> None:
        self.records.append(record)

    def end(self, task: Task) -> None:
        pass


def tasks_of(model: Path, data: Path, ways: Sequence[str], **flags: Any) -> list[Task]:
    wanted = Wanted(Grid(), tuple(ways), str(model), {}, SETTINGS | flags, {str(model): {}})
    return plan_tasks(open_suite("folder", data), wanted)


def lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record must not depend on when and beside what it was made."""
    kept = {key: value for key, value in record.items() if key not in ("total", "memory")}
    stages = {
        stage: {kind: entry and entry | {"seconds": len(entry["seconds"])} for kind, entry in passes.items()}
        for stage, passes in record["stages"].items()
    }
    return kept | {"stages": stages}


def by_id(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    assert len({record["id"] for record in records}) == len(records)
    return {record["id"]: lasting(record) for record in records}
