"""From what a caller asks for to a `Request`, or a sentence why the model at hand cannot do it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedit.control import control_map
from sparsedit.errors import InputError, SettingsError
from sparsedit.inversion import check_invertible
from sparsedit.plan import Picture, Request, as_tensor
from sparsedit.schedule import Schedule
from sparsedit.settings import FOLLOWING, TASKS
from sparsedit.stages import Stages
from sparsedit.tasks.refine import parts


def make_request(
    stages: Stages,
    refiner: Stages | None,
    original: Picture | None,
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
    size: tuple[int, int] | None = None,
    control_from: str = "photo",
) -> Request:
    """Check and bundle what all edits of an original share.

    Without an `original`, task prompt makes one from noise, of `size` (width, height). Raises InputError for a size the
    model cannot take, SettingsError for an unknown task, one that this model cannot do, or a schedule without a step.
    """
    if task not in TASKS:
        raise SettingsError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if task not in stages.tasks:
        raise SettingsError(f"this model was not made for {task}; use task {stages.tasks[0]}")
    picture = _original(task, original, size)
    if task in FOLLOWING:  # their latents are moved and compared cell by cell
        stages.check_size(*picture.shape[-2:])
    schedule = Schedule(steps, strength, guidance)
    generated, from_map = original is None, task == "control" and control_from == "map"
    _check_task(stages, task, schedule, generated=generated)
    control = None
    if stages.controlnet is not None:
        control = picture / 2 + 0.5 if from_map else control_map(picture)
    since = None if refiner is None else refine_from
    if refiner is not None:
        if task != "sdedit":
            raise SettingsError(f"a refiner goes with task sdedit, not with {task}")
        parts(stages, refiner, refine_from, schedule)
    return Request(
        picture,
        prompt,
        negative_prompt,
        task,
        schedule,
        seed,
        control,
        control_scale,
        since,
        generated,
        from_map,
        stages.scale,
    )


def _original(task: str, original: Picture | None, size: tuple[int, int] | None) -> Tensor:
    """The original's picture, or a blank one where it is still to be made."""
    if original is not None:
        return as_tensor(original)
    if task != "prompt":
        raise InputError(f"{task} needs an original picture; task prompt alone can make one from noise")
    if size is None:
        raise InputError("an original that is made from noise needs a size: width and height in pixels")
    return torch.zeros(1, 3, size[1], size[0])


def _check_task(stages: Stages, task: str, schedule: Schedule, *, generated: bool) -> None:
    """Raise SettingsError where this model, or this schedule, does not go with the task."""
    if task == "control" and stages.controlnet is None:
        raise SettingsError("task control needs a ControlNet: name one with --controlnet, such as canny")
    if task in FOLLOWING and stages.controlnet is not None:
        raise SettingsError(f"task {task} goes without a ControlNet: leave out --controlnet")
    if schedule.strength != 1 and (task == "control" or generated):
        raise SettingsError(
            f"a picture made from noise takes the whole schedule: strength 1, not {schedule.strength:g}"
        )
    if task == "prompt" and not generated:
        check_invertible(stages)
