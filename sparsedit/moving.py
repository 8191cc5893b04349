"""`MovingEditor`: a picture whose canvas is panned or rotated; the empty area is made, the rest is not computed again.

editor = MovingEditor(pipe)
editor.record(photo, prompt="a meadow", task="pan")
editor.apply(Edit(by=(64, 0))).image
editor.advance(Edit(by=(16, 0))).image     # any number of times: each goes on from where the last one came to
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsedit.cache.shelf import Shelf
from sparsedit.editor import SparseEditor
from sparsedit.errors import SettingsError
from sparsedit.masks import edit_ratio
from sparsedit.measure.clock import Clock
from sparsedit.plan import Edit, Plan, Request, stage_sites
from sparsedit.results import Recorded, Result
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import Motion, dilate
from sparsedit.tasks.canvas import Canvas, moved_picture, outpaint
from sparsedit.tasks.pan import pan
from sparsedit.tasks.rotate import turn
from sparsedit.ways import Dense, Recording, Renewing, Thin, Way


class MovingEditor(SparseEditor):
    """A `SparseEditor` for tasks pan and rotate: the photo is recorded where it is, edits move its canvas."""

    past: Recorded | None = None
    """What the last motion of a series started from, without its caches: the dense edit starts there as well."""

    def __init__(self, *args: Any, norm: str = "original", **options: Any) -> None:
        if norm != "original":
            raise SettingsError("norms follow an edit where the canvas stays; tasks pan and rotate take norm original")
        super().__init__(*args, norm=norm, **options)

    def record_request(
        self, request: Request, record_steps: int | None = None, *, shelf: Shelf | None = None
    ) -> Recorded:
        """Run the photo and remember it: as inpainting does, with nothing to paint."""
        if record_steps is not None:
            raise SettingsError(f"task {request.task} reads every step of its original: leave out record_steps")
        self.recorded = None
        recorded = Recorded(request, request.original, Clock(self.stages.device))
        way = Recording(recorded.clock, recorded.caches, self.moments)
        self._time_text(recorded.clock, request, request.prompt)
        with torch.inference_mode():
            canvas = Canvas.of(self.stages, way, request.original, request.seed)
        self._outpaint(way, request, request.prompt, canvas, self._no_cells(request))
        recorded.canvas = canvas
        self.recorded = recorded
        return recorded

    def apply(self, edit: Edit) -> Result:
        """Move the recorded photo's canvas, and make what comes into view.

        Raises SettingsError for a motion that is none or leaves nothing of the picture.
        """
        recorded, canvas = self._ready()
        motion = motion_of(recorded.request, edit, canvas)
        return self._moved(recorded, canvas, plan_motion(recorded.request, edit, motion, self.policy), motion)

    def advance(self, edit: Edit) -> Result:
        """`apply`, and let the moved canvas be the one that the next motion starts from.

        What was recorded moves for good, and what came into view is run once more, thinly, as a part of the photo. A
        motion so large that it runs densely is recorded anew.
        """
        recorded, canvas = self._ready()
        motion = motion_of(recorded.request, edit, canvas)
        plan = plan_motion(recorded.request, edit, motion, self.policy)
        result = self._moved(recorded, canvas, plan, motion)
        self.past = replace(recorded, caches={})
        request = replace(recorded.request, original=result.picture, prompt=plan.prompt)
        if result.way == "dense":
            self.record_request(request)
            return replace(result, reason=f"{result.reason}; its result was recorded anew")
        way = Renewing(result.clock, recorded.caches, plan.stage_sites, self.packed, motion=motion)
        moved = self._encoded(way, plan, result.picture, request.seed, canvas, motion)
        self._outpaint(way, request, plan.prompt, moved, self._no_cells(request))
        recorded.renewing = True
        with way.clock.stage("writing"):
            way.write()
        canvas = moved.following(edit.by, request.seed)
        self.recorded = Recorded(request, result.picture, Clock(self.stages.device), recorded.caches, canvas=canvas)
        return replace(result, passes=2)

    def alongside(self, request: Request, edits: Sequence[Edit]) -> tuple[Recorded, list[Result]]:
        raise SettingsError(f"task {request.task} moves what was recorded of its original: use way warm")

    def cold(self, request: Request, edit: Edit, coarse: int) -> tuple[Recorded, Result]:
        raise SettingsError(f"task {request.task} moves what was recorded of its original: use way warm")

    def dense(self, request: Request, edit: Edit, original: Tensor | None = None) -> Result:
        """The dense edit, for comparison: the moved picture inpainted with the same noise, moved too."""
        motion = motion_of(request, edit, self._canvas_of(request))
        self.stages.forget_texts()
        return self._dense(request, plan_motion(request, edit, motion, self.policy), None, None, motion)

    def _dense(
        self, request: Request, plan: Plan, base: Tensor | None, reason: str | None, motion: Motion | None = None
    ) -> Result:
        assert motion is not None  # a canvas that stays has nothing to make
        way = Dense(Clock(self.stages.device))
        self._time_text(way.clock, request, plan.prompt)
        canvas = self._canvas_of(request)
        if canvas is None:
            with torch.inference_mode():
                canvas = Canvas.of(self.stages, Dense(Clock(self.stages.device)), request.original, request.seed)
        return self._made(way, request, plan, canvas, motion, "dense", reason)

    def _moved(self, recorded: Recorded, canvas: Canvas, plan: Plan, motion: Motion) -> Result:
        """The motion of a recorded canvas, thinly where that is faster."""
        request = recorded.request
        if reason := self._too_large(plan):
            return self._dense(request, plan, None, reason, motion)
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        way = Thin(clock, recorded.caches, plan.stage_sites, self.packed, motion=motion)
        return self._made(way, request, plan, canvas, motion, "warm", None)

    def _made(
        self, way: Way, request: Request, plan: Plan, canvas: Canvas, motion: Motion, name: str, reason: str | None
    ) -> Result:
        moved = self._encoded(way, plan, plan.picture, request.seed, canvas, motion)
        size = self.stages.latent_size(*plan.hole.shape)
        cells = plan.sites.level(size).position.view(size) >= 0
        generated, latents = self._outpaint(way, request, plan.prompt, moved, cells)
        reason = "; ".join(filter(None, (reason, *way.notes))) or None
        return self._result(plan, plan.picture, generated, latents, name, reason, way.clock)

    def _encoded(self, way: Way, plan: Plan, picture: Tensor, seed: int, canvas: Canvas, motion: Motion) -> Canvas:
        """The canvas after a motion, with what was encoded of its picture: all, or where a thin encoder has sites."""
        size = self.stages.latent_size(*plan.hole.shape)
        computed = plan.stage_sites["encoder"].level(size).position.view(size) >= 0
        with torch.inference_mode():
            encoded = Canvas.of(self.stages, way, picture, seed).latents
            return canvas.moved(motion, encoded, computed.to(encoded.device) if isinstance(way, Thin) else None)

    def _ready(self) -> tuple[Recorded, Canvas]:
        """What was recorded, and its canvas. Raises CacheError where there is none, or half of one."""
        recorded = self._whole_recording()
        assert recorded.canvas is not None  # as `record_request` and `advance` leave it
        return recorded, recorded.canvas

    def _canvas_of(self, request: Request) -> Canvas | None:
        """The canvas of a request that was recorded, or that the last motion of a series started from."""
        known = (recorded for recorded in (self.recorded, self.past) if recorded is not None)
        return next((recorded.canvas for recorded in known if recorded.request is request), None)

    def _no_cells(self, request: Request) -> Tensor:
        return torch.zeros(self.stages.latent_size(*request.original.shape[-2:]), dtype=torch.bool)

    def _outpaint(
        self, way: Way, request: Request, prompt: str, canvas: Canvas, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            made, latents = outpaint(
                self.stages,
                way,
                canvas,
                cells,
                [prompt],
                request.negative,
                request.schedule,
                request.seed,
                self.on_step,
            )
        return made.cpu(), latents


def motion_of(request: Request, edit: Edit, canvas: Canvas | None = None) -> Motion:
    """How an edit moves a canvas, which may have moved before. Raises SettingsError as `pan` and `turn`."""
    size = (request.original.shape[2], request.original.shape[3])
    if request.task == "rotate":
        return turn(edit.angle, size)
    return pan(edit.by, size, (0, 0) if canvas is None else canvas.panned)


def plan_motion(request: Request, edit: Edit, motion: Motion, policy: MaskPolicy) -> Plan:
    """The moved picture, and what has to be made: all that was not on the canvas, and nothing else changes."""
    size = (request.original.shape[2], request.original.shape[3])
    empty = motion.left_empty(size)
    hole = dilate(empty, policy.grow)
    return Plan(
        picture=moved_picture(request.original, motion),
        prompt=request.prompt if edit.prompt is None else edit.prompt,
        changed=empty,
        hole=hole,
        blend=empty,
        stage_sites=stage_sites(hole, policy),
        edit_ratio=edit_ratio(empty),
        mask_source="motion",
    )
