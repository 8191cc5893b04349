"""`DenseEditor`: edits with the stock pipeline, and what every way of editing shares: prompts, masks, results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from sparsedit.measure.clock import Clock
from sparsedit.pixels import stages_of
from sparsedit.plan import Edit, Picture, Plan, Request, composite, plan_edit
from sparsedit.requests import make_request
from sparsedit.results import Result
from sparsedit.settings import POLICIES, MaskPolicy
from sparsedit.stages import OnStep
from sparsedit.tasks.run import run_task
from sparsedit.ways import Dense, Way


class DenseEditor:
    """Edits that compute everything.

    A pipeline with a ControlNet shows it the Canny edges of each picture. A `refiner`, a pipeline of its own, finishes
    what the first one begins. `policy` says how an edit becomes a mask; `on_step(done, total)` is called after each
    denoising step.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        policy: MaskPolicy = POLICIES["tight"],
        on_step: OnStep = lambda done, total: None,
        refiner: DiffusionPipeline | None = None,
    ) -> None:
        self.stages = stages_of(pipe)
        self.refiner = None if refiner is None else stages_of(refiner)
        self.policy = policy
        self.on_step = on_step

    def request(self, original: Picture | None, **settings: Any) -> Request:
        """Check and bundle what all edits of an original share; settings and errors as `make_request`."""
        return make_request(self.stages, self.refiner, original, **settings)

    def dense(self, request: Request, edit: Edit, original: Tensor | None = None) -> Result:
        """The dense edit, for comparison: the stock pipeline on the edited picture, text encoding included.

        For `inpaint` the result keeps the photo outside the mask; for `sdedit` it is the whole generated picture,
        or, with the `original`'s own picture given, that one outside the mask.
        """
        plan = plan_edit(request, edit, self.policy)
        base = request.original if request.task == "inpaint" else original
        for stages in filter(None, (self.stages, self.refiner)):
            stages.forget_texts()
        return self._dense(request, plan, base, None)

    def _run(self, way: Way, request: Request, plans: Sequence[Plan]) -> tuple[Tensor, Tensor]:
        """What the request's task makes of the plans' pictures, run in one batch."""
        return run_task(self.stages, self.refiner, way, request, plans, self.on_step)

    def _base(self, request: Request, generated: Tensor) -> Tensor:
        return request.original if request.task == "inpaint" else generated

    def _dense(self, request: Request, plan: Plan, base: Tensor | None, reason: str | None) -> Result:
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        way = Dense(clock)
        generated, latents = self._run(way, request, [plan])
        base = generated if base is None else base
        return self._result(plan, base, generated, latents, "dense", reason_of(way, reason), clock)

    def _result(
        self, plan: Plan, base: Tensor, generated: Tensor, latents: Tensor, way: str, reason: str | None, clock: Clock
    ) -> Result:
        width = self.policy.blend_width(drawn=plan.mask_source in ("user", "motion"))
        picture = generated
        if base is not generated:
            with clock.stage("blending"):
                picture = composite(base, generated, plan.blend, width)
        reason = "; ".join(filter(None, (reason, plan.hint))) or None
        return Result(picture, generated, latents, plan.blend, way, reason, plan, clock)

    def _untouched(self, plan: Plan, request: Request, made: Tensor | None = None) -> Result:
        """The original as it is; that of task control is what was `made` of its map."""
        difference = f"nothing differs from the original by more than {self.policy.threshold:g}"
        what = "the mask is empty" if plan.mask_source == "user" else difference
        original = made if request.task == "control" and made is not None else request.original
        reason = f"{what}; the original is returned"
        return Result(original, original, None, plan.blend, "none", reason, plan, Clock(self.stages.device))

    def _time_text(self, clock: Clock, request: Request, prompt: str) -> None:
        """Encode a prompt under the clock, unless its embeddings are at hand."""
        for stages in filter(None, (self.stages, self.refiner)):
            if not stages.knows_text(prompt, request.negative, request.schedule):
                with torch.inference_mode(), clock.stage("text"):
                    stages.text([prompt], request.negative, request.schedule)


def reason_of(way: Way, reason: str | None = None) -> str | None:
    """Why a result is what it is, with what its run has to say."""
    return "; ".join(filter(None, (reason, *way.notes))) or None
