"""Pictures made from a control map: noise, a prompt and a ControlNet that is shown lines (Zhang et al., 2023).

An edit changes the lines: the map itself, or a photo whose edges are the map. Only where the maps differ are
ControlNet, UNet and decoder computed again, so one-step models gain as well as long schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparsedit.control import Control
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Stages
from sparsedit.tasks.generation import first_noise, generate
from sparsedit.ways import Way


def from_control(
    stages: Stages,
    way: Way,
    pictures: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    seed: int,
    on_step: OnStep,
    control: Control | None,
) -> tuple[Tensor, Tensor]:
    """Pictures [P, 3, H, W], of which only the size counts, maps and prompts -> the results and their latents."""
    size = (pictures.shape[2], pictures.shape[3])
    latents, noise = first_noise(stages, len(prompts), size, schedule, seed)
    return generate(stages, way, latents, prompts, negative, schedule, noise, on_step, control)
