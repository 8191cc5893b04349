"""`SparseEditor`: edits of a picture that cost what they change.

    editor = SparseEditor(pipe)
    editor.record(original, prompt="a meadow under mountains")
    result = editor.edit(edited)          # any number of times
    result.image
    editor.edit(painted_on_that, keep=True)       # a series: the next edit starts from this one's result

or, with nothing remembered between calls, `editor.alongside(request, edits)` for the original and its edits in one
batch, and `editor.cold(request, edit, coarse)` for an edit without a run of the original. The pipeline stays a stock
diffusers one. Outside its mask a result equals, bit for bit, the picture being edited: the photo for `inpaint`,
the original's own generated picture for `sdedit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from sparsedit.cache.shelf import Keeping, Shelf, recording_size
from sparsedit.dense import DenseEditor, reason_of
from sparsedit.errors import CacheError, DamagedError, SettingsError
from sparsedit.images import to_image
from sparsedit.measure.clock import Clock
from sparsedit.plan import Edit, Picture, Plan, Request, plan_edit, plan_nothing
from sparsedit.results import Recorded, Result
from sparsedit.series import answering, check_keepable, following
from sparsedit.settings import POLICIES, MaskPolicy
from sparsedit.skipping import steps_kept
from sparsedit.sparse import PackedWeights
from sparsedit.sparse.packing import can_pack
from sparsedit.stages import OnStep
from sparsedit.ways import Cold, Lockstep, Mending, Recording, Renewing, Thin

BREAK_EVEN = 0.55
"""Share of active sites, averaged over the UNet's resolutions, from which an edit runs dense. On two CPU cores thin
passes of the demo model are level with dense ones at 0.55 (in one piece) to 0.6 (scattered) of 32x64 latents, and above
that of 32x32."""


class SparseEditor(DenseEditor):
    """Edits with a stock pipeline of the Stable Diffusion families, computing only what an edit changed.

    Takes what a `DenseEditor` takes. `norm` is "updated" for group norms that follow the edit's statistics, "original"
    for the original's. On a CPU in bfloat16, `pack` keeps a second copy of the weights in the layout its kernels want:
    faster edits, more memory. `keeping` says how recordings are kept: in memory unless it names a folder.
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
        super().__init__(pipe, policy=policy, on_step=on_step, refiner=refiner)
        self.packed = PackedWeights() if pack and can_pack() and self.stages.unet.dtype == torch.bfloat16 else None
        self.moments = norm == "updated"
        self.break_even = break_even
        self.keeping = keeping or Keeping()
        self.recorded: Recorded | None = None

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
        form = self._form(request, record_steps, edits)
        return Shelf(self.keeping, self.stages, self.refiner, request, **form)

    def recording_size(self, request: Request, record_steps: int | None = None, edits: Sequence[Edit] = ()) -> int:
        """The bytes that recording a request will take, with a pipeline that may lie on the meta device.

        Raises as `shelf` does, but looks at no disk.
        """
        form = self._form(request, record_steps, edits)
        return recording_size(self.keeping, self.stages, self.refiner, request, **form)

    def _form(self, request: Request, record_steps: int | None, edits: Sequence[Edit]) -> dict[str, Any]:
        """What is recorded of a request: of which steps, and of which sites where that matters."""
        kept = None if record_steps is None else self._kept(request, record_steps)
        wanted = self.keeping.rows == "halo" or self.keeping.budget is not None
        plans = [plan_edit(request, edit, self.policy) for edit in edits] if wanted else []
        stages = plans[0].stage_sites if plans else {}
        sites = {stage: [plan.stage_sites[stage] for plan in plans] for stage in stages}
        return {"moments": self.moments, "kept": kept, "sites": sites or None}

    def edit(
        self,
        edited: Picture | None = None,
        *,
        mask: Tensor | None = None,
        prompt: str | None = None,
        keep: bool = False,
    ) -> Result:
        """A warm edit of the recorded original: thin passes only. With `keep` its result is the next one's original.

        Raises CacheError when nothing was recorded, InputError when the edit does not fit the original; with `keep` as
        `advance`.
        """
        edit = Edit(edited, mask, prompt)
        return self.advance(edit) if keep else self.apply(edit)

    def apply(self, edit: Edit) -> Result:
        """`edit`, for an edit in one piece."""
        return self._edited(edit, keep=False)

    def advance(self, edit: Edit) -> Result:
        """`apply`, and let what came of it be the original of the next edit: its picture, its prompt, its activations.

        Strokes denoise the place of the edit before again along with their own, so that it answers them. The recording
        is changed in memory, where one that lies on the disk is brought first; files stay as they are. An
        edit so large that it runs densely is recorded densely too. Group norms keep the first original's statistics,
        or with norm "updated" follow every edit. Raises SettingsError for a recording cut down to a halo, CacheError
        for one that memory has no room for. An edit that fails leaves the recording as it was, or refused from then on.
        """
        check_keepable(self.keeping)
        return self._edited(edit, keep=True)

    def _edited(self, edit: Edit, *, keep: bool) -> Result:
        recorded = self._whole_recording()
        request = recorded.request
        plan = plan_edit(request, edit, self.policy)
        if plan.sites.empty:
            return self._untouched(plan, request, recorded.picture)
        base = self._base(request, recorded.picture)
        if reason := self._too_large(plan):
            return self._dense_edit(recorded, plan, base, reason, keep=keep)
        if keep and not self._too_large(wider := answering(request, plan, recorded.latest, self.policy)):
            plan = wider
        try:
            way, (generated, latents) = self._warm(recorded, plan, keep=keep)
        except DamagedError as error:
            recorded, mended, seconds = self._mended(recorded)
            way, (generated, latents) = self._warm(recorded, plan, keep=keep)
            way.notes.append(f"{error}; {mended}")
            way.clock.add("mending", seconds)
        result = self._result(plan, base, generated, latents, "warm", reason_of(way), way.clock)
        return self._kept_in(recorded, way, result) if isinstance(way, Renewing) else result

    def _whole_recording(self) -> Recorded:
        """What was recorded. Raises CacheError where that is nothing, or half of it another edit's."""
        if self.recorded is None:
            raise CacheError("nothing was recorded; call record(original, prompt=...) before edit()")
        if self.recorded.renewing:
            raise CacheError(
                "this recording was interrupted while an edit was written into it; record the original again"
            )
        return self.recorded

    def _warm(self, recorded: Recorded, plan: Plan, *, keep: bool) -> tuple[Thin, tuple[Tensor, Tensor]]:
        """The thin passes of an edit -> how they ran, and what they made."""
        if keep and recorded.shelf is not None:
            recorded.shelf.settle()
        timesteps = self.stages.timesteps(recorded.request.schedule) if recorded.kept else ()
        kind = Renewing if keep else Thin
        clock = Clock(self.stages.device)
        way = kind(clock, recorded.caches, plan.stage_sites, self.packed, timesteps, recorded.kept)
        self._time_text(clock, recorded.request, plan.prompt)
        return way, self._run(way, recorded.request, [plan])

    def _mended(self, recorded: Recorded) -> tuple[Recorded, str, float]:
        """A recording whose damaged steps were recorded again, or all of it where they cannot be alone; a word on it,
        and the seconds that it took where they are not a recording's own."""
        shelf, request = recorded.shelf, recorded.request
        assert shelf is not None  # what is in memory alone is not damaged
        if not shelf.mendable:
            shelf.forget()
            return self.record_request(request, shelf=shelf), "the original was recorded again", 0.0
        with shelf.writing():
            way = Mending(Clock(self.stages.device), shelf.caches, self.moments, recorded.kept)
            self._run(way, request, [plan_nothing(request)])
        said = f"{way.mended} step{'s were' if way.mended > 1 else ' was'} recorded again"
        return recorded, said, way.clock.total

    def _kept_in(self, recorded: Recorded, way: Renewing, result: Result) -> Result:
        """Write a thin edit into the recording, which then is that of its result -> the result, and what that took.

        A photo is recorded without a hole, so what filled one is run once more, thinly, as a part of the photo.
        """
        request = following(recorded.request, result)
        if request.task == "inpaint":
            self._run(way, request, [plan_nothing(request)])
            result = replace(result, passes=2)
        recorded.renewing = True
        with way.clock.stage("writing"):
            way.write()
        clock = Clock(self.stages.device)
        self.recorded = Recorded(
            request, result.picture, clock, recorded.caches, recorded.kept, latest=result.plan.hole
        )
        return result

    def _dense_edit(self, recorded: Recorded, plan: Plan, base: Tensor, reason: str, *, keep: bool) -> Result:
        """An edit so large that it runs densely; one that is kept is recorded anew, in memory."""
        request = recorded.request
        if not keep:
            return self._dense(request, plan, base, reason)
        result = self._dense(request, plan, base, f"{reason}; its result was recorded anew")
        request = following(request, result)
        keeping = replace(self.keeping, folder=None)
        options: dict[str, Any] = {"moments": self.moments, "kept": recorded.kept}
        anew = self.record_request(request, shelf=Shelf(keeping, self.stages, self.refiner, request, **options))
        anew.picture = result.picture
        return result

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
        return run, self._result(plan, base, generated, latents, "cold", reason_of(way), clock)

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
                clock, reason = clocks[row], reason_of(way)
                results.append(self._result(plan, base, generated[one], latents[one], "alongside", reason, clock))
        return whole, results

    def _kept(self, request: Request, count: int) -> tuple[int, ...] | None:
        """The steps that are run densely when `count` of a schedule are; None when that is all of them."""
        kept = steps_kept(self.stages.pipe.scheduler, count, request.schedule.calls)
        if kept is not None and request.refine_from is not None:
            raise SettingsError("with a refiner every step is run: leave out coarse and record_steps")
        return kept

    def _too_large(self, plan: Plan) -> str | None:
        share = self.stages.reach(plan.sites)
        if share <= self.break_even:
            return None
        return (
            f"the edit reaches {share:.0%} of the UNet's sites; from {self.break_even:.0%} on a dense pass is faster, "
            "so the edit ran dense"
        )
