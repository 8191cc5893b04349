"""What a run would do, for `--dry-run`: cases, effective steps, sizes, edited shares.

Opens pictures, loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from sparsedit.calibration import plan_dense_steps
from sparsedit.jobs import Job
from sparsedit.manifest import Variant
from sparsedit.report.numbers import percent
from sparsedit.report.table import cells, grid
from sparsedit.report.text import Cell
from sparsedit.settings import Settings

HEADINGS = ("case/variant", "edit type", "task", "way", "size", "edited", "steps")


def plan_entries(jobs: Sequence[Job]) -> list[dict[str, Cell]]:
    """One entry per edit, with the pictures' sizes and edited shares. Raises InputError for a picture that misfits."""
    from sparsedit.engines.local import open_original
    from sparsedit.images import load_image, to_tensor
    from sparsedit.masks import difference, edit_ratio, load_mask

    entries: list[dict[str, Cell]] = []
    for job in jobs:
        original = open_original(job)
        for variant in job.variants:
            if variant.mask is not None:
                changed = load_mask(variant.mask, original.size)
            elif variant.edited is None:
                entries.append(_entry(job, variant, original.size, None))  # known once it has been found
                continue
            else:
                threshold = job.settings.mask_policy().threshold
                changed = difference(to_tensor(original), to_tensor(load_image(variant.edited)), threshold)
            entries.append(_entry(job, variant, original.size, edit_ratio(changed)))
    return entries


def plan_table(entries: Sequence[dict[str, Cell]]) -> Table:
    """The plan for a terminal."""
    table = grid((heading, "right" if heading == "edited" else "left") for heading in HEADINGS)
    for row in plan_rows(entries):
        table.add_row(*cells(row))
    return table


def plan_rows(entries: Sequence[dict[str, Cell]]) -> list[list[str]]:
    """The plan under `HEADINGS`, as it is read."""
    return [
        [
            f"{entry['case']}/{entry['variant']}" + (" *" if entry["prompt_changed"] else ""),
            str(entry["edit_type"] or ""),
            f"{entry['task']}",
            f"{entry['way']}" + (f", {entry['dense_steps']} dense" if entry["dense_steps"] else ""),
            f"{entry['width']}x{entry['height']}",
            "?" if entry["edit_ratio"] is None else percent(float(entry["edit_ratio"])),
            f"{entry['steps_run']} of {entry['steps']} at {entry['strength']}",
        ]
        for entry in entries
    ]


def schedule(settings: Settings) -> str:
    """The schedule in words: "14 of 20 steps at strength 0.7"."""
    return f"{settings.calls} of {settings.steps} steps at strength {settings.strength:g}"


def _entry(job: Job, variant: Variant, size: tuple[int, int], ratio: float | None) -> dict[str, Cell]:
    settings = job.settings
    dense = plan_dense_steps(settings)
    return {
        "case": job.case.id,
        "variant": variant.id,
        "edit_type": variant.edit_type,
        "task": settings.task,
        "way": settings.way,
        "dense_steps": dense.count if dense else None,
        "dense_steps_expected": dense.expected if dense else None,
        "dense": settings.dense,
        "prompt_changed": variant.prompt != job.case.prompt,
        "width": size[0],
        "height": size[1],
        "edit_ratio": ratio,
        "steps_run": settings.calls,
        "steps": settings.steps,
        "strength": settings.strength,
    }
