"""Edits by words: the same noise under a changed prompt, computed where the picture changes (FISEdit, 2023).

Dense steps come first: how far their latents come from the original's, or the attention they give to the new words,
makes the mask. From then on its sites alone are computed, among what the original left; with a mask given that is so
from the first step on. Where steps are left out (`words.spread_steps`) the dense ones are every other one of more than
half of the schedule, the thin ones every other one of the rest, and what the words change in between is foretold from
the original's own run (`sparse/foretelling.py`). What the last dense step differs by from the original's then is added
to what the thin ones read of their surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from sparsedit.measure.clock import Clock
from sparsedit.plan import Plan
from sparsedit.sparse import (
    ActivationCache,
    ChangedCache,
    Foretelling,
    PackedWeights,
    SitePyramid,
    leaving_out,
    record,
    renewing,
    sparse,
)
from sparsedit.sparse.cache import Renewable, SomeSteps, Step
from sparsedit.sparse.difference import difference
from sparsedit.sparse.renewal import Renewal
from sparsedit.tasks.word_maps import WordMaps
from sparsedit.tasks.words import Shares
from sparsedit.trajectory import Trajectory
from sparsedit.ways import Way

OPENING = (2, 2)
LOWEST = 0.7
"""Of Otsu's threshold, what counts beside more of a change where steps are left out and thin ones cost little. Without
it corners of houses and crowns of trees stayed (benchmarks/NOTES.md)."""
ALL_OVER = 0.5
"""From how much of what the latents change by inside a mask, on average, they change by outside of it as well, no mask
tells where the words take effect. Of 60 edits of the demo model three changes of time had 0.42, 0.55 and 0.62, all
others at most 0.35, be it after the first steps or after spread ones."""


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


class Switching(Way):
    """A UNet that makes the dense steps of its `shares` until `thin_from`, those on sites then, and dense ones again.

    Thin steps read `caches`, the original's recording. The decoder is thin where the UNet ever was. Of `guided` calls
    the first leaves the negative prompt's row out, where steps are left out; `lone_calls` counts it.
    """

    def __init__(
        self,
        clock: Clock,
        caches: Mapping[str, Renewable],
        packed: PackedWeights | None,
        shares: Shares,
        *,
        guided: bool = False,
    ) -> None:
        super().__init__(clock)
        self.caches = caches
        self.packed = packed
        self.shares = shares
        self.guided = guided
        self.lone_calls = 0
        self.foretelling = Foretelling(caches["unet"], shares.made) if shares.leave_out else None
        self.sites: Mapping[str, SitePyramid] | None = None
        self.unet: nn.Module | None = None
        self.swap = ExitStack()
        self.last = ActivationCache()  # what the last dense step before the mask leaves, where steps are left out

    @contextmanager
    def engaged(self, stage: str, model: nn.Module) -> Iterator[None]:
        if stage == "unet":
            self.unet = model
            with self.swap:
                if self.sites is None:
                    self.arrive(0)
                else:
                    self.thin_from(0, self.sites)
                yield
        elif self.sites is None:
            with self.dense_stage(stage, model):
                yield
        else:
            with self.thin_stage(stage, model, self.caches[stage], self.sites[stage]):
                yield

    def arrive(self, step: int) -> None:
        """Look, before step number `step` of those before the mask is known, whether it is made in another way."""
        assert self.unet is not None  # steps are made within `engaged`
        if self.foretelling is None:
            return
        if step == self.shares.dense[-1]:
            self.swap.close()
            self.swap.enter_context(record(self.unet, self.last, foretelling=self.foretelling))
        elif step == 0:
            self.swap.enter_context(leaving_out(self.unet, self.foretelling, lone=self.guided))
            self.lone_calls = int(self.guided)

    def thin_from(self, step: int, sites: Mapping[str, SitePyramid]) -> None:
        """Compute these sites alone from step number `step` on."""
        assert self.unet is not None  # steps are made within `engaged`
        self.swap.close()
        self.sites = sites
        places = [place for place in self.shares.thin if place >= step]
        cache = SomeSteps(self.surroundings(), places)
        self.swap.enter_context(self.thin_stage("unet", self.unet, cache, sites["unet"], self.foretelling))

    def surroundings(self) -> Renewable:
        """What thin steps of the UNet read: the recording, as the last dense step before the mask changed it."""
        recorded, newest = self.caches["unet"], self.newest()
        if self.foretelling is None or newest is None:
            return recorded
        with torch.inference_mode():
            return ChangedCache(recorded, difference(newest, recorded.step(self.shares.dense[-1])))

    def newest(self) -> Step | None:
        """What the last dense step before the mask left, where it was remembered."""
        return self.last.steps[-1] if self.last.steps else None

    def stay_dense(self, step: int) -> None:
        """Compute everything from step number `step` on, at those that are made."""
        self.swap.close()
        if self.foretelling is not None:
            assert self.unet is not None  # steps are made within `engaged`
            self.swap.enter_context(leaving_out(self.unet, self.foretelling))

    def end_thin(self) -> None:
        """Compute everything from the schedule's last dense steps on."""
        self.swap.close()

    def dense_stage(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        """Of a model that is called once."""
        return nullcontext()

    def thin_stage(
        self,
        stage: str,
        model: nn.Module,
        cache: Renewable,
        sites: SitePyramid,
        foretelling: Foretelling | None = None,
    ) -> AbstractContextManager[object]:
        return sparse(model, cache, sites, packed=self.packed, foretelling=foretelling)


class Keeping(Switching):
    """The same, holding all that it makes, for `write` to make the recording `whole` that of what came of the edit.

    Of steps that were left out the recording holds what was foretold, and no leaves: edits with the same shares read
    none. `moments` as in `record`.
    """

    def __init__(self, *args: Any, whole: Mapping[str, ActivationCache], moments: bool) -> None:
        super().__init__(*args)
        self.whole = whole
        self.moments = moments
        self.parts: list[tuple[str, Sequence[int], ActivationCache]] = []
        self.renewals: list[Renewal] = []

    def arrive(self, step: int) -> None:
        if step == 0:
            self._record(self.shares.dense, self.foretelling)

    def newest(self) -> Step | None:
        dense = [part.steps[-1] for stage, _, part in self.parts if stage == "unet"]
        return dense[-1] if dense else None

    def stay_dense(self, step: int) -> None:
        self.swap.close()
        self._record(sorted(place for place in self.shares.made if place >= step), self.foretelling)

    def end_thin(self) -> None:
        self.swap.close()
        self._record(range(self.shares.end, self.shares.calls), None)

    def _record(self, places: Sequence[int], foretelling: Foretelling | None) -> None:
        assert self.unet is not None  # steps are made within `engaged`
        part = ActivationCache()
        self.parts.append(("unet", places, part))
        self.swap.enter_context(record(self.unet, part, moments=self.moments, foretelling=foretelling))

    def dense_stage(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        self.parts.append((stage, (0,), ActivationCache()))
        return record(model, self.parts[-1][2], moments=self.moments)

    @contextmanager
    def thin_stage(
        self,
        stage: str,
        model: nn.Module,
        cache: Renewable,
        sites: SitePyramid,
        foretelling: Foretelling | None = None,
    ) -> Iterator[None]:
        with renewing(model, cache, sites, packed=self.packed, foretelling=foretelling) as renewal:
            self.renewals.append(renewal)
            yield

    def write(self) -> None:
        """Make the recording that of this run. What stops it midway leaves the recording half of each."""
        for stage, places, part in self.parts:
            cache = self.whole[stage]
            for place, step in zip(places, part.steps, strict=True):
                cache.steps[place] = step
            cache.texts.adopt(part.texts)
        for renewal in self.renewals:
            renewal.write()
        if self.foretelling is not None:
            steps = self.whole["unet"].steps
            for place, told in self.foretelling.told.items():
                steps[place] = replace(steps[place], leaves={}, outputs=told)


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
