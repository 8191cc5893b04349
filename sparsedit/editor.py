"""`SparseEditor`: edits of a picture that cost what they change.

    editor = SparseEditor(pipe)
    editor.record(original, prompt="a meadow under mountains")
    result = editor.edit(edited)          # any number of times
    result.image

or, with nothing remembered between calls, `editor.alongside(request, edits)` for the original and its edits in one
batch, and `editor.cold(request, edit, coarse)` for an edit without a run of the original. The pipeline stays a stock
diffusers one. Outside its mask a result equals, bit for bit, the picture being edited: the photo for `inpaint`,
the original's own generated picture for `sdedit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from sparsedit.cache.shelf import Keeping, Shelf
from sparsedit.control import Control
from sparsedit.errors import CacheError, DamagedError, SettingsError
from sparsedit.images import to_image
from sparsedit.measure.clock import Clock
from sparsedit.pixels import PixelStages, stages_of
from sparsedit.plan import Edit, Picture, Plan, Request, composite, plan_edit, plan_nothing
from sparsedit.requests import make_request
from sparsedit.results import Recorded, Result
from sparsedit.settings import POLICIES, MaskPolicy
from sparsedit.skipping import steps_kept
from sparsedit.sparse import PackedWeights
from sparsedit.sparse.packing import can_pack
from sparsedit.stages import OnStep
from sparsedit.tasks.control import from_control
from sparsedit.tasks.inpaint import inpaint
from sparsedit.tasks.pixels import sdedit_pixels
from sparsedit.tasks.refine import refine
from sparsedit.tasks.sdedit import sdedit
from sparsedit.ways import Cold, Dense, Lockstep, Recording, Thin, Way

BREAK_EVEN = 0.45
"""Share of active latent sites from which an edit runs dense. Where a thin UNet call stops being faster depends on the
model: on two CPU cores the demo's is level at 0.47 of 64x128 latents, at 0.8 of 32x32."""


class SparseEditor:
    """Edits with a stock pipeline of the Stable Diffusion families, computing only what an edit changed.

    A pipeline with a ControlNet shows it the Canny edges of each picture. A `refiner`, a pipeline of its own, finishes
    what the first one begins.

    `policy` says how an edit becomes a mask; `on_step(done, total)` is called after each denoising step. `norm` is
    "updated" for group norms that follow the edit's statistics, "original" for the original's. On a CPU in bfloat16,
    `pack` keeps a second copy of the weights in the layout its kernels want: faster edits, more memory. `keeping` says
    how recordings are kept: in memory unless it names a folder.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        policy: MaskPolicy = POLICIES["tight"],
        break_even: float = BREAK_EVEN,
        on_step: OnStep = lambda done, total: None,
        norm: str = "original",
        pack: bool = True,
        refiner: DiffusionPipeline | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.stages = stages_of(pipe)
        self.refiner = None if refiner is None else stages_of(refiner)
        self.packed = PackedWeights() if pack and can_pack() and self.stages.unet.dtype == torch.bfloat16 else None
        self.policy = policy
        self.moments = norm == "updated"
        self.break_even = break_even
        self.on_step = on_step
        self.keeping = keeping or Keeping()
        self.recorded: Recorded | None = None

    def request(self, original: Picture | None, **settings: Any) -> Request:
        """Check and bundle what all edits of an original share; settings and errors as `make_request`."""
        return make_request(self.stages, self.refiner, original, **settings)

    def record(self, original: Picture | None, *, record_steps: int | None = None, **settings: Any) -> Image.Image:
        """Run the original densely and remember it; settings as `request`. Returns its own generated picture.

        With `record_steps` only so many of its steps are run and remembered, and edits interpolate between them.
        """
        return to_image(self.record_request(self.request(original, **settings), record_steps).picture)

    def record_request(
        self, request: Request, record_steps: int | None = None, *, shelf: Shelf | None = None
    ) -> Recorded:
        """`record` for a request already made, or what an earlier process recorded; what was recorded before is
        forgotten. A `shelf` says which steps are recorded."""
        self.recorded = None
        shelf = shelf or self.shelf(request, record_steps)
        recorded = Recorded(request, request.original, Clock(self.stages.device), kept=shelf.kept, shelf=shelf)
        with shelf.writing():
            if not shelf.load(recorded):
                self._time_text(recorded.clock, request, request.prompt)
                way = Recording(recorded.clock, recorded.caches, self.moments, shelf.kept)
                recorded.picture, _ = self._run(way, request, [plan_nothing(request)])
                shelf.finish(recorded)
        self.recorded = recorded
        return recorded

    def shelf(self, request: Request, record_steps: int | None = None, edits: Sequence[Edit] = ()) -> Shelf:
        """Where the recording of a request is kept, and how large it is. It may be cut down to what `edits` read.

        Raises as `Shelf` does, and SettingsError for a number of steps that is none.
        """
        kept = None if record_steps is None else self._kept(request, record_steps)
        plans = [plan_edit(request, edit, self.policy) for edit in edits] if self.keeping.rows == "halo" else []
        stages = plans[0].stage_sites if plans else {}
        sites = {stage: [plan.stage_sites[stage] for plan in plans] for stage in stages}
        return Shelf(
            self.keeping, self.stages, self.refiner, request, moments=self.moments, kept=kept, sites=sites or None
        )

    def edit(self, edited: Picture | None = None, *, mask: Tensor | None = None, prompt: str | None = None) -> Result:
        """A warm edit of the recorded original: thin passes only.

        Raises CacheError when nothing was recorded, InputError when the edit does not fit the original.
        """
        return self.apply(Edit(edited, mask, prompt))

    def apply(self, edit: Edit) -> Result:
        """`edit`, for an edit in one piece."""
        if self.recorded is None:
            raise CacheError("nothing was recorded; call record(original, prompt=...) before edit()")
        recorded = self.recorded
        request = recorded.request
        plan = plan_edit(request, edit, self.policy)
        if plan.sites.empty:
            return self._untouched(plan, request, recorded.picture)
        reason = self._too_large(plan)
        if reason:
            return self._dense(request, plan, self._base(request, recorded.picture), reason)
        try:
            way, (generated, latents) = self._warm(recorded, plan)
        except DamagedError as error:
            recorded = self.record_request(request, shelf=recorded.shelf)
            way, (generated, latents) = self._warm(recorded, plan)
            way.notes.append(f"{error}; the original was recorded again")
        base = self._base(request, recorded.picture)
        return self._result(plan, base, generated, latents, "warm", _reason(way), way.clock)

    def _warm(self, recorded: Recorded, plan: Plan) -> tuple[Way, tuple[Tensor, Tensor]]:
        """The thin passes of an edit -> how they ran, and what they made."""
        request, clock = recorded.request, Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        timesteps = self.stages.timesteps(request.schedule) if recorded.kept else ()
        way = Thin(clock, recorded.caches, plan.stage_sites, self.packed, timesteps, recorded.kept)
        return way, self._run(way, request, [plan])

    def cold(self, request: Request, edit: Edit, coarse: int) -> tuple[Recorded, Result]:
        """A first edit without a run of the original: `coarse` dense steps of the edit itself, then all steps thinly.

        For `inpaint` the result keeps the photo outside the mask; for `sdedit` there is no original's picture to keep,
        so it is the whole generated picture. Returns the coarse run and the result, whose clock is that of both.
        Raises SettingsError for a scheduler whose steps cannot be skipped, and for a number of steps that is none.
        """
        kept = self._kept(request, coarse)
        plan = plan_edit(request, edit, self.policy)
        run = Recorded(request, plan.picture, Clock(self.stages.device), kept=kept)
        if plan.sites.empty and request.task != "control":
            return run, self._untouched(plan, request)
        base = request.original if request.task == "inpaint" else None
        reason = self._too_large(plan)
        if reason or kept is None:
            reason = reason or f"all {coarse} steps of the edit were to run densely, which is the dense edit"
            return run, self._dense(request, plan, base, reason)
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        timesteps = self.stages.timesteps(request.schedule)
        thin = Thin(clock, run.caches, plan.stage_sites, self.packed, timesteps, kept)
        way = Cold(Recording(clock, run.caches, self.moments, kept), thin)
        generated, latents = self._run(way, request, [plan])
        run.picture = generated
        base = generated if base is None else base
        return run, self._result(plan, base, generated, latents, "cold", _reason(way), clock)

    def alongside(self, request: Request, edits: Sequence[Edit]) -> tuple[Recorded, list[Result]]:
        """The original and its edits in one batch, with the memory of one step.

        Returns the original's own run (its clock is the dense part) and a result for every edit, in order. Edits
        without a difference, and those so large that dense is faster, are left out of the batch.
        """
        plans = [plan_edit(request, edit, self.policy) for edit in edits]
        thin = [plan for plan in plans if not plan.sites.empty and not self._too_large(plan)]
        clocks = [Clock(self.stages.device) for _ in range(1 + len(thin))]
        whole = Recorded(request, request.original, clocks[0])
        if all(plan.sites.empty for plan in plans) and request.task != "control":
            return whole, [self._untouched(plan, request) for plan in plans]
        for clock, prompt in zip(clocks, [request.prompt, *(plan.prompt for plan in thin)], strict=True):
            self._time_text(clock, request, prompt)
        way = Lockstep(clocks, [plan.stage_sites for plan in thin], self.packed, self.moments)
        generated, latents = self._run(way, request, [plan_nothing(request), *thin])
        whole.picture, whole.caches = generated[:1], way.caches
        base = self._base(request, whole.picture)
        rows = {id(plan): row for row, plan in enumerate(thin, 1)}
        results = []
        for plan in plans:
            row = rows.get(id(plan))
            if plan.sites.empty:
                results.append(self._untouched(plan, request, whole.picture))
            elif row is None:
                results.append(self._dense(request, plan, base, self._too_large(plan)))
            else:
                one = slice(row, row + 1)
                clock, reason = clocks[row], _reason(way)
                results.append(self._result(plan, base, generated[one], latents[one], "alongside", reason, clock))
        return whole, results

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
        """Run the request's task on the plans' pictures in one batch -> generated pictures and their latents."""
        frame = request.frame
        pictures = torch.cat([frame.pad(plan.picture) for plan in plans])
        prompts = [plan.prompt for plan in plans]
        maps = [frame.pad(plan.control) for plan in plans if plan.control is not None]
        control = Control(torch.cat(maps), request.control_scale) if maps else None
        common = (prompts, request.negative, request.schedule, request.seed, self.on_step, control)
        with torch.inference_mode():
            if isinstance(self.stages, PixelStages):
                generated, latents = sdedit_pixels(
                    self.stages, way, pictures, request.schedule, request.seed, self.on_step
                )
            elif request.task == "control":
                generated, latents = from_control(self.stages, way, pictures, *common)
            elif request.task == "inpaint":
                holes = torch.stack([plan.cells(self.stages.scale) for plan in plans])
                generated, latents = inpaint(self.stages, way, pictures, holes, *common)
            elif self.refiner is not None and request.refine_from is not None:
                generated, latents = refine(self.stages, self.refiner, request.refine_from, way, pictures, *common)
            else:
                generated, latents = sdedit(self.stages, way, pictures, *common)
        return frame.crop(generated.cpu()), latents

    def _kept(self, request: Request, count: int) -> tuple[int, ...] | None:
        """The steps that are run densely when `count` of a schedule are; None when that is all of them."""
        kept = steps_kept(self.stages.pipe.scheduler, count, request.schedule.calls)
        if kept is not None and request.refine_from is not None:
            raise SettingsError("with a refiner every step is run: leave out coarse and record_steps")
        return kept

    def _too_large(self, plan: Plan) -> str | None:
        share = plan.sites.fraction(self.stages.latent_size(*plan.sites.size))
        if share <= self.break_even:
            return None
        return (
            f"the edit reaches {share:.0%} of the latent sites; from {self.break_even:.0%} on a dense pass is faster, "
            "so the edit ran dense"
        )

    def _base(self, request: Request, generated: Tensor) -> Tensor:
        return request.original if request.task == "inpaint" else generated

    def _dense(self, request: Request, plan: Plan, base: Tensor | None, reason: str | None) -> Result:
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        way = Dense(clock)
        generated, latents = self._run(way, request, [plan])
        base = generated if base is None else base
        return self._result(plan, base, generated, latents, "dense", _reason(way, reason), clock)

    def _result(
        self, plan: Plan, base: Tensor, generated: Tensor, latents: Tensor, way: str, reason: str | None, clock: Clock
    ) -> Result:
        width = self.policy.blend_width(drawn=plan.mask_source in ("user", "motion"))
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


def _reason(way: Way, reason: str | None = None) -> str | None:
    """Why a result is what it is, with what its run has to say."""
    return "; ".join(filter(None, (reason, *way.notes))) or None
