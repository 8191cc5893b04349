"""Which models a run calls, so which stages a recording has: the one place here that knows a pipeline's parts."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import nn

from sparsedit.plan import Request
from sparsedit.stages import Stages
from sparsedit.tasks.refine import parts


class Recordable(NamedTuple):
    """A model whose calls are recorded: the pipeline it is `part` of, a denoising call's rows, and recorded calls."""

    model: nn.Module
    stages: Stages
    part: str
    batch: int
    calls: int


def recordable(
    stages: Stages, refiner: Stages | None, request: Request, kept: tuple[int, ...] | None
) -> dict[str, Recordable]:
    """By stage; of the denoising steps `kept` ones are recorded, where given, else all."""
    batch = 2 if stages.guided(request.schedule) else 1
    schedule, second = replace(request.schedule, kept=kept), None
    if refiner is not None and request.refine_from is not None:
        schedule, second = parts(stages, refiner, request.refine_from, schedule)
    calls = stages.calls(schedule)
    if stages.vae is None:
        return {"unet": Recordable(stages.unet, stages, "unet", batch, calls)}
    found = {"encoder": Recordable(stages.vae.encoder, stages, "encoder", batch, 1)}
    found["unet"] = Recordable(stages.unet, stages, "unet", batch, calls)
    if stages.controlnet is not None:
        found["controlnet"] = Recordable(stages.controlnet, stages, "controlnet", batch, calls)
    if refiner is not None and second is not None:
        found["refiner"] = Recordable(refiner.unet, refiner, "unet", batch, refiner.calls(second))
    return found | {"decoder": Recordable(stages.vae.decoder, stages, "decoder", batch, 1)}
