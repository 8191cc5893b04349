"""Edits by words: the same noise under a changed prompt, computed where the picture changes (FISEdit, 2023).

A preview (`preview.py`) says where the new words take effect, and its sites alone are computed from the first step on,
among what the original left as the preview changed it. Or the first steps run densely: how far their latents come from
the original's, or the attention they give to the new words, makes the mask, and from then on its sites alone are
computed among what the original left. With a mask given that is so from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from sparsedit.measure.clock import Clock
from sparsedit.plan import Plan
from sparsedit.sparse import ActivationCache, PackedWeights, SitePyramid, record, renewing, sparse
from sparsedit.sparse.cache import LaterSteps, Renewable, StepsBetween
from sparsedit.sparse.renewal import Renewal
from sparsedit.tasks.word_maps import WordMaps
from sparsedit.trajectory import Trajectory
from sparsedit.ways import Way

OPENING = (2, 2)
ALL_OVER = 0.5
"""From how much of what the latents change by inside a mask, on average, they change by outside of it as well, no mask
tells where the words take effect. Of 60 edits of the demo model three changes of time had 0.42, 0.55 and 0.62, all
others at most 0.35."""


def mask_of(maps: Sequence[Tensor]) -> Tensor:
    """Where maps [h, w] of several steps say that a picture changes: bool [h, w].

    FISEdit's rule: every map scaled to [0, 1], their sum too, then Otsu's threshold, then an opening by 2x2 cells.
    """
    total = _scaled(np.sum([_scaled(each.double().cpu().numpy()) for each in maps], axis=0))
    # Of equal values there is no threshold between two classes.
    found = total > threshold_otsu(total) if total.any() else np.zeros(total.shape, dtype=bool)
    return torch.from_numpy(ndimage.binary_opening(found, structure=np.ones(OPENING)))


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


class Switching(Way):
    """A UNet that runs densely until `thin_from`, on sites then, and densely again after `dense_again`.

    Thin steps read `caches`. The decoder is thin where the UNet ever was.
    """

    def __init__(self, clock: Clock, caches: Mapping[str, Renewable], packed: PackedWeights | None) -> None:
        super().__init__(clock)
        self.caches = caches
        self.packed = packed
        self.sites: Mapping[str, SitePyramid] | None = None
        self.unet: nn.Module | None = None
        self.swap = ExitStack()

    @contextmanager
    def engaged(self, stage: str, model: nn.Module) -> Iterator[None]:
        if stage == "unet":
            self.unet = model
            with self.swap:
                if self.sites is not None:
                    self.thin_from(0, self.sites)
                yield
        elif self.sites is None:
            yield
        else:
            with sparse(model, self.caches[stage], self.sites[stage], packed=self.packed):
                yield

    def thin_from(self, step: int, sites: Mapping[str, SitePyramid]) -> None:
        """From step number `step` on compute these sites alone."""
        assert self.unet is not None  # steps are made within `engaged`
        self.sites = sites
        cache = LaterSteps(self.caches["unet"], step)
        self.swap.enter_context(sparse(self.unet, cache, sites["unet"], packed=self.packed))

    def dense_again(self, step: int) -> None:
        """Compute everything from step number `step` on."""
        self.swap.close()


class Keeping(Switching):
    """The same, holding all that it makes, for `write` to make the recording `whole` that of what came of the edit.

    Thin steps are those before step number `end`; `moments` as in `record`.
    """

    def __init__(
        self,
        clock: Clock,
        caches: Mapping[str, Renewable],
        packed: PackedWeights | None,
        *,
        whole: Mapping[str, ActivationCache],
        end: int,
        moments: bool,
    ) -> None:
        super().__init__(clock, caches, packed)
        self.whole = whole
        self.end = end
        self.moments = moments
        self.parts: list[tuple[str, int, ActivationCache]] = []
        self.renewals: list[Renewal] = []

    @contextmanager
    def engaged(self, stage: str, model: nn.Module) -> Iterator[None]:
        if stage == "unet":
            self.unet = model
            with self.swap:
                if self.sites is None:
                    self.dense_again(0)
                else:
                    self.thin_from(0, self.sites)
                yield
        elif self.sites is None:
            self.parts.append((stage, 0, ActivationCache()))
            with record(model, self.parts[-1][2], moments=self.moments):
                yield
        else:
            with renewing(model, self.caches[stage], self.sites[stage], packed=self.packed) as renewal:
                yield
            self.renewals.append(renewal)

    def thin_from(self, step: int, sites: Mapping[str, SitePyramid]) -> None:
        assert self.unet is not None  # steps are made within `engaged`
        self.sites = sites
        self.swap.close()
        steps = StepsBetween(self.caches["unet"], step, self.end - step)
        renewal = self.swap.enter_context(renewing(self.unet, steps, sites["unet"], packed=self.packed))
        self.renewals.append(renewal)

    def dense_again(self, step: int) -> None:
        assert self.unet is not None  # steps are made within `engaged`
        self.swap.close()
        self.parts.append(("unet", step, ActivationCache()))
        self.swap.enter_context(record(self.unet, self.parts[-1][2], moments=self.moments))

    def write(self) -> None:
        """Make the recording that of this run. What stops it midway leaves the recording half of each."""
        for stage, first, part in self.parts:
            cache = self.whole[stage]
            cache.steps[first : first + len(part)] = part.steps
            cache.texts.adopt(part.texts)
        for renewal in self.renewals:
            renewal.write()


class Guide:
    """Leads an edit's run from step to step: finds its mask, makes it thin, keeps its surroundings, lets it go.

    `planned` turns a mask of latent cells into a plan, or None where the edit had better stay dense. A plan that is
    known from the start makes the run thin from the start. With `words` attention to them makes the mask, else how far
    the latents come from the original's; a run stays dense as well where they do so outside of it by `all_over` of
    what they do inside.
    """

    def __init__(
        self,
        way: Switching,
        trajectory: Trajectory,
        steps: int,
        last_dense: int,
        planned: Callable[[Tensor], Plan | None],
        plan: Plan | None,
        words: WordMaps | None,
        all_over: float,
    ) -> None:
        self.way = way
        self.words = words
        self.trajectory = trajectory
        self.capturing = 0 if plan else steps
        self.end = len(trajectory.latents) - 1 - last_dense
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
        done = step + 1
        latents = self.trajectory.correct(step, latents)
        if done <= self.capturing:
            apart = self.words.take() if self.words else distance(latents, self.trajectory.latents[done])
            self.maps.append(apart)
            if done < self.capturing:
                return latents
            if self.words:
                self.words.stop()
            self.mask = mask_of(self.maps)
            self.stayed = not self.words and beyond(apart, self.mask.to(apart.device)) >= self.all_over
            self.plan = None if self.stayed else self.planned(self.mask)
            if self.plan is not None:
                self.way.thin_from(done, self.plan.stage_sites)
        if self.plan is None or done > self.end:
            return latents
        if done == self.end:
            self.way.dense_again(done)
        cells = self.plan.sites.level((latents.shape[2], latents.shape[3])).position.view(latents.shape[2:]) >= 0
        return self.trajectory.surround(step, latents, cells)
