"""`SparseEditor`: edits of a picture that cost what they change.

    editor = SparseEditor(pipe)
    editor.record(original, prompt="a meadow under mountains")
    result = editor.edit(edited)          # any number of times
    result.image

or, with nothing remembered between calls, `editor.alongside(original, edits, ...)`. The pipeline stays a stock
diffusers one. Outside its mask a result equals, bit for bit, the picture being edited: the photo for `inpaint`,
the original's own generated picture for `sdedit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from sparsedit.errors import CacheError, SettingsError
from sparsedit.images import to_image
from sparsedit.measure.clock import Clock
from sparsedit.plan import Edit, Picture, Plan, Request, as_tensor, composite, plan_edit, plan_nothing
from sparsedit.settings import POLICIES, MaskPolicy
from sparsedit.sparse import ActivationCache, PackedWeights
from sparsedit.sparse.packing import can_pack
from sparsedit.stages import OnStep, Schedule, Stages
from sparsedit.tasks.inpaint import inpaint
from sparsedit.tasks.sdedit import sdedit
from sparsedit.ways import Dense, Lockstep, Recording, Thin, Way

BREAK_EVEN = 0.45
"""Share of active latent sites from which an edit runs dense. Where a thin UNet call stops being faster depends on the
model: on two CPU cores the demo's is level at 0.47 of 64x128 latents, at 0.8 of 32x32."""


@dataclass(frozen=True)
class Result:
    """A finished edit.

    `picture` is the composited result [1, 3, H, W] in [-1, 1], `generated` the decoder's output before that,
    `mask` (bool [H, W]) where it may differ from the picture being edited. `way` is what really ran and `reason`
    why, where that is not what was asked for. `clock` holds the seconds of the edit's own stages.
    """

    picture: Tensor
    generated: Tensor
    latents: Tensor | None
    mask: Tensor
    way: str
    reason: str | None
    plan: Plan
    clock: Clock

    @property
    def image(self) -> Image.Image:
        return to_image(self.picture)


@dataclass
class Recorded:
    """What a recording left: the request, the original's own picture, one cache per stage, and its seconds."""

    request: Request
    picture: Tensor
    clock: Clock
    caches: dict[str, ActivationCache] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches.values())


class SparseEditor:
    """Edits with a stock pipeline of the Stable Diffusion families, computing only what an edit changed.

    `policy` says how an edit becomes a mask; `on_step(done, total)` is called after each denoising step. `norm` is
    "updated" for group norms that follow the edit's statistics, "original" for the original's. On a CPU in bfloat16,
    `pack` keeps a second copy of the weights in the layout its kernels want: faster edits, more memory.
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
    ) -> None:
        self.stages = Stages(pipe)
        self.packed = PackedWeights() if pack and can_pack() and self.stages.unet.dtype == torch.bfloat16 else None
        self.policy = policy
        self.moments = norm == "updated"
        self.break_even = break_even
        self.on_step = on_step
        self.recorded: Recorded | None = None

    def request(
        self,
        original: Picture,
        *,
        prompt: str = "",
        negative_prompt: str = "",
        task: str = "sdedit",
        steps: int = 20,
        strength: float = 0.7,
        guidance: float = 5.0,
        seed: int = 0,
    ) -> Request:
        """Check and bundle what all edits of an original share.

        Raises InputError for a size the model cannot take, SettingsError for an unknown task or a schedule
        without a step.
        """
        if task not in ("sdedit", "inpaint"):
            raise SettingsError(f"unknown task {task!r}; known: sdedit, inpaint")
        if task == "sdedit" and self.stages.channels != 4:
            raise SettingsError("sdedit needs a UNet of 4 channels; this is an inpainting model: use task inpaint")
        picture = as_tensor(original)
        self.stages.check_size(*picture.shape[-2:])
        return Request(picture, prompt, negative_prompt, task, Schedule(steps, strength, guidance), seed)

    def record(self, original: Picture, **settings: Any) -> Image.Image:
        """Run the original densely and remember it; settings as `request`. Returns its own generated picture."""
        return to_image(self.record_request(self.request(original, **settings)).picture)

    def record_request(self, request: Request) -> Recorded:
        """`record` for a request already made; what was recorded before is forgotten."""
        self.recorded = None
        recorded = Recorded(request, request.original, Clock(self.stages.device))
        self._time_text(recorded.clock, request, request.prompt)
        way = Recording(recorded.clock, recorded.caches, self.moments)
        recorded.picture, _ = self._run(way, request, [plan_nothing(request)])
        self.recorded = recorded
        return recorded

    def edit(self, edited: Picture | None = None, *, mask: Tensor | None = None, prompt: str | None = None) -> Result:
        """A warm edit of the recorded original: thin passes only.

        Raises CacheError when nothing was recorded, InputError when the edit does not fit the original.
        """
        if self.recorded is None:
            raise CacheError("nothing was recorded; call record(original, prompt=...) before edit()")
        request = self.recorded.request
        plan = plan_edit(request, Edit(edited, mask, prompt), self.policy)
        if plan.sites.empty:
            return self._untouched(plan, request)
        base = self._base(request, self.recorded.picture)
        reason = self._too_large(plan)
        if reason:
            return self._dense(request, plan, base, reason)
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        generated, latents = self._run(
            Thin(clock, self.recorded.caches, plan.stage_sites, self.packed), request, [plan]
        )
        return self._result(plan, base, generated, latents, "warm", None, clock)

    def alongside(self, request: Request, edits: Sequence[Edit]) -> tuple[Recorded, list[Result]]:
        """The original and its edits in one batch, with the memory of one step.

        Returns the original's own run (its clock is the dense part) and a result for every edit, in order. Edits
        without a difference, and those so large that dense is faster, are left out of the batch.
        """
        plans = [plan_edit(request, edit, self.policy) for edit in edits]
        thin = [plan for plan in plans if not plan.sites.empty and not self._too_large(plan)]
        clocks = [Clock(self.stages.device) for _ in range(1 + len(thin))]
        whole = Recorded(request, request.original, clocks[0])
        if all(plan.sites.empty for plan in plans):
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
                results.append(self._untouched(plan, request))
            elif row is None:
                results.append(self._dense(request, plan, base, self._too_large(plan)))
            else:
                one = slice(row, row + 1)
                results.append(self._result(plan, base, generated[one], latents[one], "alongside", None, clocks[row]))
        return whole, results

    def dense(self, request: Request, edit: Edit, original: Tensor | None = None) -> Result:
        """The dense edit, for comparison: the stock pipeline on the edited picture, text encoding included.

        For `inpaint` the result keeps the photo outside the mask; for `sdedit` it is the whole generated picture,
        or, with the `original`'s own picture given, that one outside the mask.
        """
        plan = plan_edit(request, edit, self.policy)
        base = request.original if request.task == "inpaint" else original
        self.stages.forget_texts()
        return self._dense(request, plan, base, None)

    def _run(self, way: Way, request: Request, plans: Sequence[Plan]) -> tuple[Tensor, Tensor]:
        """Run the request's task on the plans' pictures in one batch -> generated pictures and their latents."""
        pictures = torch.cat([plan.picture for plan in plans])
        prompts = [plan.prompt for plan in plans]
        common = (prompts, request.negative, request.schedule, request.seed, self.on_step)
        with torch.inference_mode():
            if request.task == "inpaint":
                holes = torch.stack([self._latent_hole(plan) for plan in plans])
                generated, latents = inpaint(self.stages, way, pictures, holes, *common)
            else:
                generated, latents = sdedit(self.stages, way, pictures, *common)
        return generated.cpu(), latents

    def _latent_hole(self, plan: Plan) -> Tensor:
        """The hole [1, H, W] in whole latent cells, so that pipelines and sites mean the same cells."""
        height, width = plan.hole.shape
        if plan.sites.empty:
            return torch.zeros(1, height, width)
        level = plan.sites.level(self.stages.latent_size(height, width))
        cells = (level.position >= 0).view(level.size).float()
        return cells.repeat_interleave(self.stages.scale, 0).repeat_interleave(self.stages.scale, 1)[None]

    def _too_large(self, plan: Plan) -> str | None:
        size = self.stages.latent_size(*plan.hole.shape)
        share = plan.sites.fraction(size)
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
        generated, latents = self._run(Dense(clock), request, [plan])
        return self._result(plan, generated if base is None else base, generated, latents, "dense", reason, clock)

    def _result(
        self, plan: Plan, base: Tensor, generated: Tensor, latents: Tensor, way: str, reason: str | None, clock: Clock
    ) -> Result:
        picture = composite(base, generated, plan.blend, self.policy.feather)
        return Result(picture, generated, latents, plan.blend, way, reason, plan, clock)

    def _untouched(self, plan: Plan, request: Request) -> Result:
        what = (
            "the mask is empty"
            if plan.mask_source == "user"
            else (f"nothing differs from the original by more than {self.policy.threshold:g}")
        )
        original = request.original
        reason = f"{what}; the original is returned"
        return Result(original, original, None, plan.blend, "none", reason, plan, Clock(self.stages.device))

    def _time_text(self, clock: Clock, request: Request, prompt: str) -> None:
        """Encode a prompt under the clock, unless its embeddings are at hand."""
        if self.stages.knows_text(prompt, request.negative, request.schedule):
            return
        with torch.inference_mode(), clock.stage("text"):
            self.stages.text([prompt], request.negative, request.schedule)
