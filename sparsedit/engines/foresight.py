"""What the recordings of jobs will take, before anything of their model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.calibration import plan_dense_steps
from sparsedit.engines.editors import Editors, request_of
from sparsedit.engines.local import load_edit, open_original
from sparsedit.jobs import Job
from sparsedit.settings import FOLLOWING


def largest_recording(jobs: Sequence[Job], pipe: DiffusionPipeline, refiner: DiffusionPipeline | None) -> int | None:
    """Bytes of the largest recording that warm jobs make and keep as they ask for; None where none of them makes one.

    The models may have no numbers. Tasks that record in their own way (prompt, rotate, pan) are left out. Raises
    CacheError for a recording that its budget has no room for.
    """
    editors = Editors(pipe, refiner, lambda done, total: None)
    sizes: dict[object, int] = {}
    for job in jobs:
        settings = job.settings
        if settings.way != "warm" or settings.task in FOLLOWING:
            continue
        original = open_original(job)
        key = job.case.id if settings.cache_rows == "halo" else (settings, original.size)
        if key not in sizes:
            editor, planned = editors.of(settings), plan_dense_steps(settings)
            request = request_of(editor, settings, original if job.case.original else None, job.prompt, job.seed)
            edits = [load_edit(variant, original) for variant in job.variants]
            sizes[key] = editor.recording_size(request, planned.count if planned else None, edits)
    return max(sizes.values(), default=None)
