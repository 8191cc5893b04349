"""`MovingEditor`: a picture whose canvas is panned or rotated; the empty area is made, the rest is not computed again.

editor = MovingEditor(pipe)
editor.record(photo, prompt="a meadow", task="pan")
editor.apply(Edit(by=(64, 0))).image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedit.cache.shelf import Shelf
from sparsedit.editor import SparseEditor
from sparsedit.errors import CacheError, SettingsError
from sparsedit.masks import edit_ratio
from sparsedit.measure.clock import Clock
from sparsedit.plan import Edit, Plan, Request, stage_sites
from sparsedit.results import Recorded, Result
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import Motion, dilate
from sparsedit.tasks.canvas import Canvas, moved_picture, outpaint
from sparsedit.tasks.pan import pan
from sparsedit.tasks.rotate import turn
from sparsedit.ways import Dense, Recording, Thin, Way


class MovingEditor(SparseEditor):
    """A `SparseEditor` for tasks pan and rotate: the photo is recorded where it is, edits move its canvas."""

    canvas: Canvas | None = None

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
        nothing = torch.zeros(self.stages.latent_size(*request.original.shape[-2:]), dtype=torch.bool)
        self._outpaint(way, request, request.prompt, canvas, nothing)
        self.recorded, self.canvas = recorded, canvas
        return recorded

    def apply(self, edit: Edit) -> Result:
        """Move the recorded photo's canvas, and make what comes into view.

        Raises SettingsError for a motion that is none or leaves nothing of the picture.
        """
        recorded, canvas = self.recorded, self.canvas
        if recorded is None or canvas is None:
            raise CacheError("nothing was recorded; call record(original, prompt=...) before apply()")
        request, motion = recorded.request, motion_of(recorded.request, edit)
        plan = plan_motion(request, edit, motion, self.policy)
        if reason := self._too_large(plan):
            return self._dense(request, plan, None, reason, motion)
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        way = Thin(clock, recorded.caches, plan.stage_sites, self.packed, motion=motion)
        return self._made(way, request, plan, canvas, motion, "warm", None)

    def advance(self, edit: Edit) -> Result:
        raise SettingsError("tasks pan and rotate have no series: every motion starts from the recorded photo")

    def alongside(self, request: Request, edits: Sequence[Edit]) -> tuple[Recorded, list[Result]]:
        raise SettingsError(f"task {request.task} moves what was recorded of its original: use way warm")

    def cold(self, request: Request, edit: Edit, coarse: int) -> tuple[Recorded, Result]:
        raise SettingsError(f"task {request.task} moves what was recorded of its original: use way warm")

    def dense(self, request: Request, edit: Edit, original: Tensor | None = None) -> Result:
        """The dense edit, for comparison: the moved picture inpainted with the same noise, moved too."""
        motion = motion_of(request, edit)
        self.stages.forget_texts()
        return self._dense(request, plan_motion(request, edit, motion, self.policy), None, None, motion)

    def _dense(
        self, request: Request, plan: Plan, base: Tensor | None, reason: str | None, motion: Motion | None = None
    ) -> Result:
        assert motion is not None  # a canvas that stays has nothing to make
        way = Dense(Clock(self.stages.device))
        self._time_text(way.clock, request, plan.prompt)
        with torch.inference_mode():
            canvas = Canvas.of(self.stages, Dense(Clock(self.stages.device)), request.original, request.seed)
        return self._made(way, request, plan, canvas, motion, "dense", reason)

    def _made(
        self, way: Way, request: Request, plan: Plan, canvas: Canvas, motion: Motion, name: str, reason: str | None
    ) -> Result:
        size = self.stages.latent_size(*plan.hole.shape)
        computed = plan.stage_sites["encoder"].level(size).position.view(size) >= 0
        with torch.inference_mode():
            encoded = Canvas.of(self.stages, way, plan.picture, request.seed).latents
            moved = canvas.moved(motion, encoded, computed.to(encoded.device) if name == "warm" else None)
        cells = plan.sites.level(size).position.view(size) >= 0
        generated, latents = self._outpaint(way, request, plan.prompt, moved, cells)
        reason = "; ".join(filter(None, (reason, *way.notes))) or None
        return self._result(plan, plan.picture, generated, latents, name, reason, way.clock)

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


def motion_of(request: Request, edit: Edit) -> Motion:
    """How an edit moves the canvas. Raises SettingsError as `pan` and `turn`."""
    size = (request.original.shape[2], request.original.shape[3])
    return pan(edit.by, size) if request.task == "pan" else turn(edit.angle, size)


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
