"""From what a caller asks for to a `Request`, or a sentence why the model at hand cannot do it."""

from __future__ import annotations

from sparsedit.control import control_map
from sparsedit.errors import SettingsError
from sparsedit.plan import Picture, Request, as_tensor
from sparsedit.stages import Schedule, Stages
from sparsedit.tasks.refine import parts


def make_request(
    stages: Stages,
    refiner: Stages | None,
    original: Picture,
    *,
    prompt: str = "",
    negative_prompt: str = "",
    task: str = "sdedit",
    steps: int = 20,
    strength: float = 0.7,
    guidance: float = 5.0,
    seed: int = 0,
    control_scale: float = 0.5,
    refine_from: float = 0.8,
) -> Request:
    """Check and bundle what all edits of an original share.

    Raises InputError for a size the model cannot take, SettingsError for an unknown task or a schedule
    without a step.
    """
    if task not in ("sdedit", "inpaint"):
        raise SettingsError(f"unknown task {task!r}; known: sdedit, inpaint")
    if task not in stages.tasks:
        raise SettingsError(f"this model was not made for {task}; use task {stages.tasks[0]}")
    picture = as_tensor(original)
    stages.check_size(*picture.shape[-2:])
    schedule = Schedule(steps, strength, guidance)
    control = None if stages.controlnet is None else control_map(picture)
    since = None if refiner is None else refine_from
    if refiner is not None:
        if task != "sdedit":
            raise SettingsError(f"a refiner goes with task sdedit, not with {task}")
        parts(stages, refiner, refine_from, schedule)
    return Request(picture, prompt, negative_prompt, task, schedule, seed, control, control_scale, since)
