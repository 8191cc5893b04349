"""What can be profiled: the edits of some jobs, or one edit that is made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsedit.engines.local import load_edit
from sparsedit.errors import InputError
from sparsedit.images import load_image, to_tensor
from sparsedit.jobs import Job
from sparsedit.plan import Edit
from sparsedit.profiling.synthetic import synthetic_edit, synthetic_picture
from sparsedit.settings import Settings


@dataclass(frozen=True)
class Subject:
    """One edit of an original [1, 3, H, W] under some settings. `edit` holds the edit's own prompt, `prompt` is that of
    the original's run."""

    case: str
    variant: str
    original: Tensor
    edit: Edit
    prompt: str
    settings: Settings
    seed: int


def subjects_of(jobs: Sequence[Job]) -> Iterator[Subject]:
    """Every variant of the jobs, its pictures opened when its turn comes."""
    for job in jobs:
        if job.case.original is None or job.settings.task not in ("sdedit", "inpaint"):
            raise InputError(f"only tasks sdedit and inpaint are profiled, not {job.settings.task}")
        original = load_image(job.case.original)
        for variant in job.variants:
            edit = load_edit(variant, original)
            yield Subject(job.case.id, variant.id, to_tensor(original), edit, job.prompt, job.settings, job.seed)


def synthetic_subject(
    settings: Settings, size: tuple[int, int], ratio: float, pattern: str, prompt: str = "", edit_prompt: str = ""
) -> Subject:
    """An edit of `ratio` of a made-up picture of `size` (width, height)."""
    original = synthetic_picture(size[1], size[0], settings.seed)
    made = synthetic_edit(original, ratio, pattern)
    edit = Edit(made.edited, made.mask, edit_prompt or prompt)
    return Subject("synthetic", f"{pattern}-{100 * ratio:g}%", original, edit, prompt, settings, settings.seed)
