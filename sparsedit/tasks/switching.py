"""How the UNet of an edit by words runs: densely, then on sites, then densely again, with steps left out or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparsedit.measure.clock import Clock
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
from sparsedit.tasks.words import Shares
from sparsedit.ways import Way


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
            with self.thin_stage(model, self.caches[stage], self.sites[stage]):
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
        self.swap.enter_context(self.thin_stage(self.unet, cache, sites["unet"]))

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

    def thin_stage(self, model: nn.Module, cache: Renewable, sites: SitePyramid) -> AbstractContextManager[object]:
        return sparse(model, cache, sites, packed=self.packed, foretelling=self.foretelling_of(model))

    def foretelling_of(self, model: nn.Module) -> Foretelling | None:
        """What answers the calls of a model that are left out, which are the UNet's."""
        return self.foretelling if model is self.unet else None


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
    def thin_stage(self, model: nn.Module, cache: Renewable, sites: SitePyramid) -> Iterator[None]:
        told = self.foretelling_of(model)
        with renewing(model, cache, sites, packed=self.packed, foretelling=told) as renewal:
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
