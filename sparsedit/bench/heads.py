"""What a bench's record says before anything has run: which edit, in which way, under which configuration, where."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparsedit.bench.plan import Task
from sparsedit.bench.ways import settings_of
from sparsedit.engines.entries import Head, head, nothing_measured
from sparsedit.models.loading import model_revision
from sparsedit.records import Record


@dataclass(frozen=True)
class Place:
    """Where a loaded model runs, in which precision, and which of its revisions it is."""

    device: str
    dtype: str
    model_revision: str | None

    @classmethod
    def of(cls, pipe: Any) -> Place:
        """Of a pipeline; looked up once, for diffusers asks every module."""
        return cls(str(pipe._execution_device), str(pipe.unet.dtype).removeprefix("torch."), model_revision(pipe))


def full_head(task: Task, way: str, place: Place | None) -> Record:
    """The head of the record of a way of a task; None where no model was loaded."""
    edit, settings = task.edit, settings_of(way, task.settings)
    prompts = (edit.prompt, task.prompt, edit.edit_prompt)
    names = Head(task.record_id(way), edit.case, edit.variant, task.suite, edit.edit_type, task.cell.model, prompts)
    bench = {"cell": task.cell.name, "configuration": task.cell.configuration, "way": way, "track": task.track}
    images = f"{edit.case}/{edit.variant}/{task.cell.configuration[:8]}/{way}"
    placed = {"model_revision": None} if place is None else asdict(place)
    return head(names, settings, None) | placed | {"way": way, "bench": bench, "images": images}


def failed(task: Task, way: str, reason: str, place: Place | None = None) -> Record:
    """The record of a way that could not be run."""
    return full_head(task, way, place) | nothing_measured(reason)
