"""Edits by words: the same noise under a changed prompt, computed where the picture changes (FISEdit, 2023).

Dense steps come first: how far their latents come from the original's, or the attention they give to the new words,
makes the mask. From then on its sites alone are computed, among what the original left; with a mask given that is so
from the first step on. Where steps are left out (`words.spread_steps`) about seven are made, the dense ones through
three quarters of the schedule, and what the words change in between is foretold from the original's own run
(`sparse/foretelling.py`). What the last dense step differs by from the original's then is added to what the thin ones
read of their surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from sparsedit.plan import Plan
from sparsedit.tasks.switching import Switching
from sparsedit.tasks.word_maps import WordMaps
from sparsedit.trajectory import Trajectory

OPENING = (2, 2)
LOWEST = 0.7
"""Of Otsu's threshold, what counts beside more of a change where steps are left out and thin ones cost little. Without
it corners of houses and crowns of trees stayed (benchmarks/NOTES.md)."""
ALL_OVER = 0.5
"""From how much of what the latents change by inside a mask, on average, they change by outside of it as well, no mask
tells where the words take effect. After the first steps of 60 edits of the demo model three changes of time had 0.42,
0.55 and 0.62, all others at most 0.35; after the last spread one of 39 two such changes 0.57 and 0.66, others 0.35."""


def mask_of(maps: Sequence[Tensor], lowest: float = 1.0) -> Tensor:
    """Where maps [h, w] of several steps say that a picture changes: bool [h, w].

    FISEdit's rule: every map scaled to [0, 1], their sum too, then Otsu's threshold, then an opening by 2x2 cells. With
    a `lowest` share of that threshold below 1, what reaches it and hangs together with what was found counts as well
    (hysteresis; Canny, 1986).
    """
    total = _scaled(np.sum([_scaled(each.double().cpu().numpy()) for each in maps], axis=0))
    if not total.any():  # of equal values there is no threshold between two classes
        return torch.zeros(total.shape, dtype=torch.bool)
    threshold = threshold_otsu(total)
    found = ndimage.binary_opening(total > threshold, structure=np.ones(OPENING))
    if lowest < 1:
        found = ndimage.binary_propagation(found, mask=found | (total > lowest * threshold), structure=np.ones((3, 3)))
    return torch.from_numpy(found)


def beyond(apart: Tensor, mask: Tensor) -> float:
    """Mean of a map [h, w] outside of a mask of it over its mean inside; 0 where either is nothing."""
    if not mask.any() or mask.all():
        return 0.0
    return float(apart[~mask].mean() / apart[mask].mean())


def distance(edited: Tensor, original: Tensor) -> Tensor:
    """L1 distance over the channels of two latents [1, C, h, w]: [h, w]."""
    return (edited.float() - original.float()).abs().sum(1)[0]


def _scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    span = values.max() - values.min()
    return (values - values.min()) / span if span else np.zeros_like(values)


class Guide:
    """Leads an edit's run from step to step: finds its mask, makes it thin, keeps its surroundings, lets it go.

    `planned` turns a mask of latent cells into a plan, or None where the edit had better stay dense. A plan that is
    known from the start makes the run thin from the start. With `words` attention to them makes the mask, else how far
    the latents come from the original's, of all dense steps together or, where steps are left out, after the last; a
    run stays dense as well where they do so outside of it by `all_over` of what they do inside.
    """

    def __init__(
        self,
        way: Switching,
        trajectory: Trajectory,
        planned: Callable[[Tensor], Plan | None],
        plan: Plan | None,
        words: WordMaps | None,
        all_over: float,
    ) -> None:
        self.way = way
        self.words = words
        self.trajectory = trajectory
        self.planned = planned
        self.plan = plan
        self.maps: list[Tensor] = []
        self.mask: Tensor | None = None
        self.all_over = all_over
        self.stayed = False
        if plan is not None:
            way.sites = plan.stage_sites

    def renew(self, step: int, latents: Tensor) -> Tensor:
        """What the next step takes, of what this one left."""
        done, shares = step + 1, self.way.shares
        latents = self.trajectory.correct(step, latents)
        if done < shares.found:
            self.look(done, latents)
            self.way.arrive(done)
            return latents
        if done == shares.found:
            self.look(done, latents)
            self.decide(done)
        if self.plan is None or done > shares.end:
            return latents
        if done == shares.end:
            self.way.end_thin()
        cells = self.plan.sites.level((latents.shape[2], latents.shape[3])).position.view(latents.shape[2:]) >= 0
        return self.trajectory.surround(step, latents, cells)

    def look(self, done: int, latents: Tensor) -> None:
        """Note where the run has come apart from the original's."""
        if self.words is not None:
            self.maps.append(self.words.take())
        elif done == self.way.shares.found or not self.way.shares.leave_out:
            self.maps.append(distance(latents, self.trajectory.latents[done]))

    def decide(self, done: int) -> None:
        """Make the mask of what was noted, and the run thin from here on, or dense to its end."""
        if self.words is not None:
            self.words.stop()
        self.mask = mask_of(self.maps, LOWEST if self.way.shares.leave_out else 1.0)
        apart = self.maps[-1]
        self.stayed = self.words is None and beyond(apart, self.mask.to(apart.device)) >= self.all_over
        self.plan = None if self.stayed else self.planned(self.mask)
        if self.plan is None:
            self.way.stay_dense(done)
        else:
            self.way.thin_from(done, self.plan.stage_sites)
