"""A preview of an edit by words: a few dense steps, spread over the schedule, of the edit and of its original.

What both end with tells where the words take effect, more sharply than the first steps can. What their UNets leave on
the way tells how the surroundings of the mask answer the words: the difference, added to what was recorded of the
original at every step, is what the edit's thin steps read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedit.measure.clock import Clock
from sparsedit.plan import Request
from sparsedit.sparse import ActivationCache, ChangedCache, InterpolatedCache
from sparsedit.sparse.cache import Renewable
from sparsedit.sparse.difference import difference
from sparsedit.stages import OnStep, Stages
from sparsedit.tasks.generation import first_noise
from sparsedit.ways import Recording


@dataclass(frozen=True)
class Preview:
    """The steps that were `kept` of a schedule, what the UNet left at each, and the latents [1, C, h, w] at the end."""

    kept: tuple[int, ...]
    cache: ActivationCache
    latents: Tensor

    def changed(self, recorded: Renewable, own: Preview, timesteps: Sequence[float]) -> ChangedCache:
        """What an original left at all `timesteps`, `own` being its preview, changed as these steps are."""
        return ChangedCache(recorded, InterpolatedCache(difference(self.cache, own.cache), timesteps, self.kept))


def make_preview(
    stages: Stages,
    clock: Clock,
    request: Request,
    prompt: str,
    start: Tensor,
    kept: tuple[int, ...],
    *,
    moments: bool,
    on_step: OnStep,
) -> Preview:
    """The `kept` steps under `prompt`, from the latents `start` that the original's first step took; `moments` as in
    `record`."""
    way = Recording(clock, {}, moments, kept)
    [steps] = way.passes(request.schedule)
    with torch.inference_mode():
        size = (request.original.shape[2], request.original.shape[3])
        _, noise = first_noise(stages, 1, size, request.schedule, request.seed)  # what comes after the start's
        text = stages.text([prompt], request.negative, request.schedule)
        with way.around("unet", stages.unet):
            latents = stages.sample(start, text, steps, noise, on_step)
    return Preview(kept, way.caches["unet"], latents)
