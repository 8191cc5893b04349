"""Which task's page is turned to: from plans of one request to generated pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsedit.control import Control
from sparsedit.pixels import PixelStages
from sparsedit.plan import Plan, Request
from sparsedit.stages import OnStep, Stages
from sparsedit.tasks.control import from_control
from sparsedit.tasks.inpaint import inpaint
from sparsedit.tasks.pixels import sdedit_pixels
from sparsedit.tasks.refine import refine
from sparsedit.tasks.sdedit import sdedit
from sparsedit.ways import Way


def run_task(
    stages: Stages, refiner: Stages | None, way: Way, request: Request, plans: Sequence[Plan], on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """Run the request's task on the plans' pictures in one batch -> generated pictures [P, 3, H, W] and their latents.

    Pictures are padded to what the model divides, and cropped back.
    """
    frame = request.frame
    pictures = torch.cat([frame.pad(plan.picture) for plan in plans])
    prompts = [plan.prompt for plan in plans]
    maps = [frame.pad(plan.control) for plan in plans if plan.control is not None]
    control = Control(torch.cat(maps), request.control_scale) if maps else None
    common = (prompts, request.negative, request.schedule, request.seed, on_step, control)
    with torch.inference_mode():
        if isinstance(stages, PixelStages):
            generated, latents = sdedit_pixels(stages, way, pictures, request.schedule, request.seed, on_step)
        elif request.task == "control":
            generated, latents = from_control(stages, way, pictures, *common)
        elif request.task == "inpaint":
            holes = torch.stack([plan.cells(stages.scale) for plan in plans])
            generated, latents = inpaint(stages, way, pictures, holes, *common)
        elif refiner is not None and request.refine_from is not None:
            generated, latents = refine(stages, refiner, request.refine_from, way, pictures, *common)
        else:
            generated, latents = sdedit(stages, way, pictures, *common)
    return frame.crop(generated.cpu()), latents
