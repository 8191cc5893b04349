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

from sparsedit.cache.shelf import Shelf
from sparsedit.editor import SparseEditor
from sparsedit.errors import SettingsError
from sparsedit.inversion import invert
from sparsedit.measure.clock import Clock
from sparsedit.noise import generators
from sparsedit.plan import Edit, Plan, Request, plan_edit, plan_nothing
from sparsedit.results import Recorded, Result
from sparsedit.skipping import spread
from sparsedit.sparse import InterpolatedCache
from sparsedit.sparse.cache import Remembered
from sparsedit.stages import Renew
from sparsedit.tasks.generation import first_noise, generate
from sparsedit.tasks.prompt import ALL_OVER, Guide, Keeping, Switching
from sparsedit.tasks.word_maps import WordMaps, new_tokens
from sparsedit.tasks.words import capture_steps, check_words
from sparsedit.trajectory import Trajectory
from sparsedit.ways import Cold, Dense, Recording, Thin, Way

CHANGES_ALL = "the new words change the picture all over, so the edit ran dense"


class PromptEditor(SparseEditor):
    """A `SparseEditor` for task prompt: an original is recorded, edits change its words.

    `capture_steps` of an edit's steps are dense and find its mask (a tenth of them, if None), `last_dense` at its end
    are dense again. `mask_from` says what the mask is found in: "latents" or "attention". Where latents differ outside
    of their mask by `all_over` of what they differ by inside, or more, the edit runs densely.
    """

    def __init__(
        self,
        *args: Any,
        capture_steps: int | None = None,
        last_dense: int = 0,
        mask_from: str = "latents",
        all_over: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.capture_steps = capture_steps
        self.last_dense = last_dense
        self.mask_from = mask_from
        self.all_over = ALL_OVER if all_over is None else all_over
        self.past: Recorded | None = None  # what the last edit of a series started from, without its caches

    def record_request(
        self, request: Request, record_steps: int | None = None, *, shelf: Shelf | None = None
    ) -> Recorded:
        """Run the original and remember it. A picture is inverted first, and stays the original's own picture.

        Of `record_steps` of its steps, or those a `shelf` names, the others follow: they are made without a site, upon
        what lies between. An inversion takes every step whatever is recorded.
        """
        kept = shelf.kept if shelf else None if record_steps is None else self._kept(request, record_steps)
        self.recorded = None
        recorded = Recorded(request, request.original, Clock(self.stages.device), kept=kept)
        recording = Recording(recorded.clock, recorded.caches, self.moments, kept)
        self._time_text(recorded.clock, request, request.prompt)
        trajectory = self._beginning(recorded.clock, request)
        way: Way = recording
        renew: Renew = trajectory.extend if request.generated else trajectory.hold
        if kept is not None:
            way, renew = self._between(recording, request, trajectory, kept)
        generated, _ = self._generate(way, request, request.prompt, trajectory, renew)
        if request.generated:
            recorded.picture = generated
            recorded.request = replace(request, original=generated)
        recorded.trajectory = trajectory
        self.recorded = recorded
        return recorded

    def _kept(self, request: Request, count: int) -> tuple[int, ...] | None:
        """The first steps, which find the masks, one after the other, and the rest evenly apart: what comes of noise is
        decided early. So many that two are left at least."""
        if super()._kept(request, count) is None:
            return None
        calls = request.schedule.calls
        together = min(capture_steps(self.capture_steps, self.last_dense, calls), count - 1)
        return *range(together - 1), *(
            together - 1 + step for step in spread(count - together + 1, calls - together + 1)
        )

    def _between(
        self, recording: Recording, request: Request, trajectory: Trajectory, kept: tuple[int, ...]
    ) -> tuple[Way, Renew]:
        """How the `kept` steps are recorded and all made upon these, and what leads both along the trajectory."""
        sites, timesteps = plan_nothing(request).stage_sites, self.stages.timesteps(request.schedule)
        thin = Thin(recording.clock, recording.caches, sites, self.packed, timesteps, kept)
        way = Cold(recording, thin, ends=recording)
        whole = trajectory.extend if request.generated else trajectory.hold
        arrivals = (*kept[1:], request.schedule.calls)

        def renew(step: int, latents: Tensor) -> Tensor:
            if not way.coarse:
                return whole(step, latents)
            return latents if request.generated else trajectory.latents[arrivals[step]]

        return way, renew

    def _edited(self, edit: Edit, *, keep: bool) -> Result:
        """Change the recorded original's words; without a mask the first steps find one.

        Raises SettingsError where the words are the same, or no step would be left to be thin.
        """
        recorded = self._whole_recording()
        if keep and recorded.kept is not None:
            raise SettingsError("a series of prompt edits writes every step of its recording: leave out record_steps")
        assert recorded.trajectory is not None  # as `record_request` and `_keep` leave it
        request, prompt = recorded.request, edit.prompt or ""
        check_words(request.prompt, prompt)
        steps = capture_steps(self.capture_steps, self.last_dense, request.schedule.calls)
        if recorded.kept is not None:  # a mask is found where the original's latents are its own
            steps = min(steps, sum(step == place for place, step in enumerate(recorded.kept)))
        plan = None if edit.mask is None else plan_edit(request, edit, self.policy)
        if plan is not None and plan.sites.empty:
            return self._untouched(plan, request)
        if plan is not None and (reason := self._too_large(plan)):
            return self._dense_edit(recorded, plan, recorded.picture, reason, keep=keep)
        clock = Clock(self.stages.device)
        self._time_text(clock, request, prompt)
        way = self._switching(recorded, clock, keep=keep)
        words = self._words(request, prompt) if plan is None and self.mask_from == "attention" else None
        planner, known = self._planner(request, prompt), recorded.trajectory
        guide = Guide(way, known, steps, self.last_dense, planner, plan, words, self.all_over)
        passed = Trajectory(recorded.trajectory.latents[:1], recorded.trajectory.corrections)
        with words.watching(self.stages.unet) if words else nullcontext():
            generated, latents = self._generate(
                way, request, prompt, recorded.trajectory, lambda *left: passed.extend(left[0], guide.renew(*left))
            )
        result = self._made(recorded, guide, prompt, generated, latents)
        if isinstance(way, Keeping) and result.way != "none":
            self._keep(recorded, way, result, passed)
        return result

    def _switching(self, recorded: Recorded, clock: Clock, *, keep: bool) -> Switching:
        if not keep:
            return Switching(clock, self._every_step(recorded), self.packed)
        end = recorded.request.schedule.calls - self.last_dense
        return Keeping(clock, recorded.caches, self.packed, end=end, moments=self.moments)

    def _every_step(self, recorded: Recorded) -> Mapping[str, Remembered]:
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
        request, way = recorded.request, guide.way
        dense_calls = guide.capturing + self.last_dense
        if guide.plan is not None:
            if guide.plan.sites.empty:
                reason = "the first steps under the new words differ nowhere from the original's; it is returned"
                return replace(self._untouched(guide.plan, request), reason=reason, clock=way.clock)
            notes = "; ".join(way.notes) or None
            result = self._result(guide.plan, recorded.picture, generated, latents, "warm", notes, way.clock)
            return replace(result, dense_calls=dense_calls)
        assert guide.mask is not None  # without a plan from the start the steps have looked for one
        plan = self._plan(request, guide.mask, prompt)
        why = CHANGES_ALL if guide.stayed else self._too_large(plan)
        reason = "; ".join(filter(None, (why, *way.notes)))
        return self._result(plan, recorded.picture, generated, latents, "dense", reason, way.clock)

    def _words(self, request: Request, prompt: str) -> WordMaps:
        tokenizer = self.stages.pipe.tokenizer or self.stages.pipe.tokenizer_2
        size = self.stages.latent_size(*request.original.shape[-2:])
        return WordMaps(new_tokens(tokenizer, request.prompt, prompt), size)

    def _planner(self, request: Request, prompt: str) -> Callable[[Tensor], Plan | None]:
        def planned(mask: Tensor) -> Plan | None:
            plan = self._plan(request, mask, prompt)
            return None if self._too_large(plan) else plan

        return planned

    def _plan(self, request: Request, mask: Tensor, prompt: str) -> Plan:
        """The plan of a mask of latent cells (bool [h, w]) that was found; as for a difference, it may grow."""
        scale = self.stages.scale
        pixels = mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        plan = plan_edit(request, Edit(mask=pixels, prompt=prompt), self.policy)
        return replace(plan, blend=plan.hole, mask_source=self.mask_from, hint=None)

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

    def _known(self, request: Request) -> Trajectory | None:
        """The run of a request that was recorded whole, or that the last edit of a series started from."""
        runs = (run for run in (self.recorded, self.past) if run and run.kept is None and run.request is request)
        return next((run.trajectory for run in runs), None)

    def _beginning(self, clock: Clock, request: Request) -> Trajectory:
        """Where the original's run begins: its noise; or for a picture all that its run is to be held to."""
        with torch.inference_mode():
            if request.generated:
                size = (request.original.shape[2], request.original.shape[3])
                noise, _ = first_noise(self.stages, 1, size, request.schedule, request.seed)
                return Trajectory([noise])
            with clock.stage("encoder"):
                latents = self.stages.encode(request.original, generators(1, request.seed))
            with clock.stage("inversion"):
                return Trajectory(invert(self.stages, latents, request.prompt, request.schedule, self.on_step))

    def _generate(
        self, way: Way, request: Request, prompt: str, trajectory: Trajectory, renew: Renew
    ) -> tuple[Tensor, Tensor]:
        start, size = trajectory.latents[0], (request.original.shape[2], request.original.shape[3])
        with torch.inference_mode():
            _, noise = first_noise(self.stages, 1, size, request.schedule, request.seed)  # what comes after the start's
            made, latents = generate(
                self.stages, way, start, [prompt], request.negative, request.schedule, noise, self.on_step, renew=renew
            )
        return made.cpu(), latents
