"""The ways a stage can run: densely, remembering, thinly, or the original and its variants in lockstep.

A way is handed to a task, which asks it for the context `around` each model it calls. The task's page reads the
same whatever the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import nn

from sparsedit.measure.clock import Clock
from sparsedit.sparse import ActivationCache, PackedWeights, SitePyramid, alongside, record, sparse


class Way(ABC):
    """How the models of one run are called. `clock` collects the seconds of each stage."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @abstractmethod
    def around(self, stage: str, model: nn.Module) -> AbstractContextManager[None]:
        """The context in which a task calls `model` for `stage`."""


class Dense(Way):
    """The stock model."""

    def around(self, stage: str, model: nn.Module) -> AbstractContextManager[None]:
        return self.clock.stage(stage)


class Recording(Way):
    """The stock model, remembered in one cache per stage."""

    def __init__(self, clock: Clock, caches: dict[str, ActivationCache], moments: bool = False) -> None:
        super().__init__(clock)
        self.caches = caches
        self.moments = moments

    @contextmanager
    def around(self, stage: str, model: nn.Module) -> Iterator[None]:
        cache = self.caches.setdefault(stage, ActivationCache())
        with self.clock.stage(stage), record(model, cache, moments=self.moments):
            yield


class Thin(Way):
    """The active sites of each stage alone, on what a recording left."""

    def __init__(
        self,
        clock: Clock,
        caches: dict[str, ActivationCache],
        sites: Mapping[str, SitePyramid],
        packed: PackedWeights | None = None,
    ) -> None:
        super().__init__(clock)
        self.caches = caches
        self.sites = sites
        self.packed = packed

    @contextmanager
    def around(self, stage: str, model: nn.Module) -> Iterator[None]:
        with self.clock.stage(stage), sparse(model, self.caches[stage], self.sites[stage], packed=self.packed):
            yield


class Lockstep(Way):
    """An original and its variants in one batch; `clocks` holds one clock per picture, the original's first.

    `caches` are there to be asked how large they grew; they hold no step after their call.
    """

    def __init__(
        self,
        clocks: Sequence[Clock],
        sites: Sequence[Mapping[str, SitePyramid]],
        packed: PackedWeights | None = None,
        moments: bool = False,
    ) -> None:
        super().__init__(clocks[0])
        self.packed = packed
        self.moments = moments
        self.clocks = clocks
        self.sites = sites
        self.caches: dict[str, ActivationCache] = {}

    @contextmanager
    def around(self, stage: str, model: nn.Module) -> Iterator[None]:
        def observe(row: int) -> AbstractContextManager[None]:
            return self.clocks[row].stage(stage)

        sites = [by_stage[stage] for by_stage in self.sites]
        with alongside(model, sites, observe, packed=self.packed, moments=self.moments) as cache:
            self.caches[stage] = cache
            yield
