"""`PromptEditor`: edits of a picture's words, of pictures made from noise or inverted to it.

editor = PromptEditor(pipe)
editor.record(None, size=(512, 512), prompt="a meadow", task="prompt")
editor.edit(prompt="a meadow with a red house").image        # its mask is in the result's plan
editor.edit(prompt="a meadow with a red house", keep=True)    # the next edit starts from this one's result
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsedit.errors import SettingsError
from sparsedit.measure.clock import Clock
from sparsedit.plan import Edit, Plan, Request, plan_edit
from sparsedit.results import Recorded, Result
from sparsedit.sparse import InterpolatedCache
from sparsedit.sparse.cache import Renewable
from sparsedit.tasks.prompt import ALL_OVER, Guide
from sparsedit.tasks.switching import Keeping, Switching
from sparsedit.tasks.word_maps import WordMaps, new_tokens
from sparsedit.tasks.words import Shares, check_words, first_steps, spread_steps, spreads
from sparsedit.tracing import TracedEditor
from sparsedit.trajectory import Trajectory
from sparsedit.ways import Dense

CHANGES_ALL = "the new words change the picture all over, so the edit ran dense"
NOWHERE = "differs nowhere from the original's; it is returned"


class PromptEditor(TracedEditor):
    """A `TracedEditor` for task prompt: an original is recorded, edits change its words.

    `mask_from` says what finds an edit's mask: dense steps "spread" over three quarters of the schedule, others being
    left out; or its first steps, by their "latents" or "attention", none being left out. If None steps are spread where
    every step was recorded and there are a few of them, else latents. `capture_steps` dense steps are made for that (as
    many as `tasks/words.py` says, if None), `last_dense` at the edit's end are dense again. Where latents differ
    outside of their mask by `all_over` of what they differ by inside, or more, the edit runs densely.
    """

    def __init__(
        self,
        *args: Any,
        mask_from: str | None = None,
        all_over: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.mask_from = mask_from
        self.all_over = ALL_OVER if all_over is None else all_over

    def _edited(self, edit: Edit, *, keep: bool) -> Result:
        """Change the recorded original's words; without a mask dense steps find one.

        Raises SettingsError where the words are the same, or no step would be left to be thin.
        """
        recorded = self._whole_recording()
        if keep and recorded.kept is not None:
            raise SettingsError("a series of prompt edits writes every step of its recording: leave out record_steps")
        assert recorded.trajectory is not None  # as `record_request` and `_keep` leave it
        request, prompt = recorded.request, edit.prompt or ""
        check_words(request.prompt, prompt)
        shares = self._shares(recorded)
        plan = None if edit.mask is None else plan_edit(request, edit, self.policy)
        if plan is not None:
            shares = shares.masked()
        if plan is not None and plan.sites.empty:
            return self._untouched(plan, request)
        if plan is not None and (reason := self._too_large(plan)):
            return self._dense_edit(recorded, plan, recorded.picture, reason, keep=keep)
        clock = Clock(self.stages.device)
        self._time_text(clock, request, prompt)
        way = self._switching(recorded, clock, shares, keep=keep)
        words = self._words(request, prompt) if plan is None and self.mask_from == "attention" else None
        guide = Guide(way, recorded.trajectory, self._planner(request, prompt, shares), plan, words, self.all_over)
        with words.watching(self.stages.unet) if words else nullcontext():
            return self._guided(recorded, guide, prompt)

    def _shares(self, recorded: Recorded) -> Shares:
        """Which steps of an edit without a mask are dense, thin and left out."""
        assert recorded.trajectory is not None  # as `record_request` and `_keep` leave it
        calls, kept = len(recorded.trajectory.latents) - 1, recorded.kept
        if spreads(self.mask_from, calls, of_few=kept is not None):
            return spread_steps(self.capture_steps, self.last_dense, calls)
        shares = first_steps(self.capture_steps, self.last_dense, calls)
        if kept is None:
            return shares
        own = sum(step == place for place, step in enumerate(kept))  # whose latents are the original's own
        return first_steps(min(shares.found, own), self.last_dense, calls)

    def _source(self, shares: Shares) -> str:
        """What the dense steps are searched for a mask."""
        if self.mask_from == "attention":
            return "attention"
        return "spread" if shares.leave_out else "latents"

    def _guided(self, recorded: Recorded, guide: Guide, prompt: str) -> Result:
        """What a run makes that is led from step to step; in a series the next edit starts from it."""
        trajectory, way = guide.trajectory, guide.way
        passed = Trajectory(trajectory.latents[:1], trajectory.corrections)
        generated, latents = self._generate(
            way, recorded.request, prompt, trajectory, lambda *left: passed.extend(left[0], guide.renew(*left))
        )
        result = self._made(recorded, guide, prompt, generated, latents)
        if isinstance(way, Keeping) and result.way != "none":
            self._keep(recorded, way, result, passed)
        return result

    def _switching(self, recorded: Recorded, clock: Clock, shares: Shares, *, keep: bool) -> Switching:
        if not keep:
            guided = self.stages.guided(recorded.request.schedule)
            return Switching(clock, self._every_step(recorded), self.packed, shares, guided=guided)
        return Keeping(clock, recorded.caches, self.packed, shares, whole=recorded.caches, moments=self.moments)

    def _every_step(self, recorded: Recorded) -> Mapping[str, Renewable]:
        """The caches of a recording, as if every step had been recorded."""
        if recorded.kept is None:
            return recorded.caches
        timesteps = self.stages.timesteps(recorded.request.schedule)
        return recorded.caches | {"unet": InterpolatedCache(recorded.caches["unet"], timesteps, recorded.kept)}

    def _keep(self, recorded: Recorded, way: Keeping, result: Result, passed: Trajectory) -> None:
        """Let the next edit start from this one's result, its run and its words."""
        self.past = replace(recorded, caches={})
        recorded.renewing = True
        with way.clock.stage("writing"):
            way.write()
        request = replace(recorded.request, original=result.picture, prompt=result.plan.prompt)
        clock = Clock(self.stages.device)
        self.recorded = Recorded(request, result.picture, clock, recorded.caches, trajectory=passed)

    def _dense_edit(self, recorded: Recorded, plan: Plan, base: Tensor, reason: str, *, keep: bool) -> Result:
        """An edit so large that it runs densely; one that is kept is recorded anew."""
        result = self._dense(recorded.request, plan, base, reason)
        if not keep:
            return result
        past = replace(recorded, caches={})
        anew = self.record_request(replace(recorded.request, original=result.picture, prompt=plan.prompt))
        anew.picture, self.past = result.picture, past
        anew.request = replace(anew.request, original=result.picture)
        return replace(result, reason=f"{reason}; its result was recorded anew")

    def alongside(self, request: Request, edits: Sequence[Edit]) -> tuple[Recorded, list[Result]]:
        raise SettingsError("a prompt edit follows the run of its original: use way warm")

    def cold(self, request: Request, edit: Edit, coarse: int) -> tuple[Recorded, Result]:
        """A first edit: `coarse` steps of the original, recorded, and upon these the edit, its clock that of both."""
        recorded = self.record_request(request, coarse)
        result = self._edited(edit, keep=False)
        self.recorded = None  # of which a dense edit of the same request should not profit
        way = "cold" if result.way == "warm" else result.way
        result = replace(result, way=way, clock=result.clock.after(recorded.clock))
        return replace(recorded, clock=Clock(self.stages.device)), result

    def _made(self, recorded: Recorded, guide: Guide, prompt: str, generated: Tensor, latents: Tensor) -> Result:
        """The result of a run, however it went."""
        request, way, shares = recorded.request, guide.way, guide.way.shares
        if guide.plan is not None:
            if guide.plan.sites.empty:
                untouched = self._untouched(guide.plan, request)
                return replace(untouched, reason=f"the run of the new words {NOWHERE}", clock=way.clock)
            notes = "; ".join(way.notes) or None
            result = self._result(guide.plan, recorded.picture, generated, latents, "warm", notes, way.clock)
            dense_calls, left_out = len(shares.dense) + self.last_dense, shares.calls - len(shares.made)
            return replace(result, dense_calls=dense_calls, left_out_calls=left_out, lone_calls=way.lone_calls)
        assert guide.mask is not None  # without a plan from the start the steps have looked for one
        plan = self._plan(request, guide.mask, prompt, self._source(shares))
        why = CHANGES_ALL if guide.stayed else self._too_large(plan)
        reason = "; ".join(filter(None, (why, *way.notes)))
        result = self._result(plan, recorded.picture, generated, latents, "dense", reason, way.clock)
        return replace(result, left_out_calls=shares.calls - len(shares.made), lone_calls=way.lone_calls)

    def _words(self, request: Request, prompt: str) -> WordMaps:
        tokenizer = self.stages.pipe.tokenizer or self.stages.pipe.tokenizer_2
        size = self.stages.latent_size(*request.original.shape[-2:])
        return WordMaps(new_tokens(tokenizer, request.prompt, prompt), size)

    def _planner(self, request: Request, prompt: str, shares: Shares) -> Callable[[Tensor], Plan | None]:
        def planned(mask: Tensor) -> Plan | None:
            plan = self._plan(request, mask, prompt, self._source(shares))
            return None if self._too_large(plan) else plan

        return planned

    def _plan(self, request: Request, mask: Tensor, prompt: str, source: str) -> Plan:
        """The plan of a mask of latent cells (bool [h, w]) that was found; as for a difference, it may grow.

        Where steps are left out most of what is inside was made beside other surroundings than the original's, so the
        mask grows by one cell more, over all of which both are blended.
        """
        scale, policy = self.stages.scale, self.policy
        grow = policy.grow + scale if source == "spread" else policy.grow
        width = grow if source == "spread" and policy.feather is None else policy.blend_width(drawn=False)
        pixels = mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        plan = plan_edit(request, Edit(mask=pixels, prompt=prompt), replace(policy, grow=grow, feather=width))
        return replace(plan, blend=plan.hole, mask_source=source, hint=None)

    def _dense(self, request: Request, plan: Plan, base: Tensor | None, reason: str | None) -> Result:
        """The edit without an original's run, inversion included."""
        clock = Clock(self.stages.device)
        self._time_text(clock, request, plan.prompt)
        trajectory = self._beginning(clock, request)
        if (known := self._known(request)) is not None:
            trajectory = known
        elif not request.generated:
            self._generate(Dense(Clock(self.stages.device)), request, request.prompt, trajectory, trajectory.hold)
        generated, latents = self._generate(Dense(clock), request, plan.prompt, trajectory, trajectory.correct)
        return self._result(plan, generated if base is None else base, generated, latents, "dense", reason, clock)

    def dense(self, request: Request, edit: Edit, original: Tensor | None = None) -> Result:
        """The dense edit, for comparison: stock text-to-image under the new prompt, from the original's noise.

        The whole generated picture, or with the `original`'s own picture given and a mask, that one outside the mask.
        """
        check_words(request.prompt, edit.prompt or "")
        self.stages.forget_texts()
        whole = torch.ones(request.original.shape[-2:], dtype=torch.bool)
        plan = plan_edit(request, replace(edit, mask=whole if edit.mask is None else edit.mask), self.policy)
        return self._dense(request, plan, original, None)
