"""`TracedEditor`: originals of which it is known where they were at every step.

What surrounds an edit by words is not what is left of its own noise but the original's own latents, step by step. So an
original's run is remembered as a trajectory beside its activations, and a picture is inverted to noise first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsedit.cache.shelf import Shelf
from sparsedit.editor import SparseEditor
from sparsedit.inversion import invert
from sparsedit.measure.clock import Clock
from sparsedit.noise import generators
from sparsedit.plan import Request, plan_nothing
from sparsedit.results import Recorded
from sparsedit.skipping import spread
from sparsedit.stages import Renew
from sparsedit.tasks.generation import first_noise, generate
from sparsedit.tasks.words import capture_steps
from sparsedit.trajectory import Trajectory
from sparsedit.ways import Cold, Recording, Thin, Way


class TracedEditor(SparseEditor):
    """A `SparseEditor` whose recordings hold a trajectory. Of those of a few steps the first follow each other: as many
    as find a mask, which are `capture_steps` (a tenth, if None), `last_dense` at an edit's end being dense, too."""

    def __init__(self, *args: Any, capture_steps: int | None = None, last_dense: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.capture_steps = capture_steps
        self.last_dense = last_dense
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
