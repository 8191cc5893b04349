"""The ways a stage can run: densely, remembering or mending, thinly or renewing, coarse and then thin, or in lockstep.

A way is handed to a task, which asks it for the context `around` each model it calls. The task's page reads the
same whatever the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import nn

from sparsedit.cache.held import HeldCache
from sparsedit.measure.clock import Clock
from sparsedit.schedule import Schedule
from sparsedit.sparse import (
    ActivationCache,
    InterpolatedCache,
    Motion,
    MovedCache,
    PackedWeights,
    SettlingCache,
    SitePyramid,
    alongside,
    mending,
    record,
    renewing,
    sparse,
)
from sparsedit.sparse.cache import Remembered, Renewable
from sparsedit.sparse.mending import Mendable
from sparsedit.sparse.renewal import Renewal

DENOISING = ("unet", "controlnet")
"""Stages that are called once a step."""

DECODER_SHARE = 2
"""About what a VAE's decoder leaves over what its encoder left: 1.6 with SDXL's and SD 1.5's, 2.1 at most with the
demo's."""


class Way(ABC):
    """How the models of one run are called.

    `clock` collects the seconds of each stage, `notes` what its user should be told of the run.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.notes: list[str] = []

    def passes(self, schedule: Schedule) -> Iterator[Schedule]:
        """The schedules over which a task denoises, each from the same start; what the last one yields counts."""
        yield schedule

    @contextmanager
    def around(self, stage: str, model: nn.Module) -> Iterator[None]:
        """The context in which a task calls `model` for `stage`: one sample of the clock."""
        with self.clock.stage(stage), self.engaged(stage, model):
            yield

    @contextmanager
    def beside(self, stage: str, model: nn.Module | None) -> Iterator[None]:
        """As `around`, for a model that is called within another stage, such as a ControlNet: a sample for each call.

        Without a model nothing happens.
        """
        if model is None:
            yield
            return
        with self.clock.calls(stage, model), self.engaged(stage, model):
            yield

    @abstractmethod
    def engaged(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        """The context in which calls of `model` run in this way, untimed."""


class Dense(Way):
    """The stock model."""

    def engaged(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        return nullcontext()


class Recording(Way):
    """The stock model, remembered in one cache per stage; of the steps only the `kept` ones are made, where given."""

    def __init__(
        self,
        clock: Clock,
        caches: dict[str, ActivationCache],
        moments: bool = False,
        kept: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(clock)
        self.caches = caches
        self.moments = moments
        self.kept = kept
        self.calls = 1

    def passes(self, schedule: Schedule) -> Iterator[Schedule]:
        self.calls = schedule.calls if self.kept is None else len(self.kept)
        yield replace(schedule, kept=self.kept)

    def engaged(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        denoising = stage in DENOISING
        later = DECODER_SHARE * self.caches["encoder"].nbytes if denoising and "encoder" in self.caches else 0
        cache = self.caches.setdefault(stage, HeldCache(self.calls if denoising else 1, later))
        return record(model, cache, moments=self.moments)


class Mending(Way):
    """A recorded run made once more, densely where its steps are damaged alone. `mended` counts these."""

    def __init__(
        self, clock: Clock, caches: Mapping[str, Mendable], moments: bool, kept: tuple[int, ...] | None
    ) -> None:
        super().__init__(clock)
        self.caches = caches
        self.moments = moments
        self.kept = kept
        self.mended = 0

    def passes(self, schedule: Schedule) -> Iterator[Schedule]:
        yield replace(schedule, kept=self.kept)

    @contextmanager
    def engaged(self, stage: str, model: nn.Module) -> Iterator[None]:
        with mending(model, self.caches[stage], moments=self.moments) as mended:
            yield
        self.mended += len(mended)


class Thin(Way):
    """The active sites of each stage alone, on what a recording left.

    A recording of some of `timesteps` is one of the `kept` ones; what the others would have left is interpolated. With
    a `motion` the canvas has moved since.
    """

    def __init__(
        self,
        clock: Clock,
        caches: Mapping[str, ActivationCache],
        sites: Mapping[str, SitePyramid],
        packed: PackedWeights | None = None,
        timesteps: Sequence[float] = (),
        kept: tuple[int, ...] | None = None,
        motion: Motion | None = None,
    ) -> None:
        super().__init__(clock)
        self.caches = caches
        self.sites = sites
        self.packed = packed
        self.timesteps = timesteps
        self.kept = kept
        self.motion = motion

    def engaged(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        cache: Remembered = self.recording(stage)
        if self.motion is not None:
            cache = MovedCache(cache, self.motion)
        return sparse(model, cache, self.sites[stage], packed=self.packed)

    def recording(self, stage: str) -> Renewable:
        """What a stage reads, as a recording of all steps."""
        if self.kept is not None and stage in DENOISING:
            return InterpolatedCache(self.caches[stage], self.timesteps, self.kept)
        return self.caches[stage]


class Renewing(Thin):
    """A thin way that holds what it makes anew, for `write` to put into the recording."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.renewals: dict[str, Renewal] = {}
        self.settling: dict[str, SettlingCache] = {}

    @contextmanager
    def engaged(self, stage: str, model: nn.Module) -> Iterator[None]:
        cache = self.recording(stage)
        if self.motion is not None:
            cache = self.settling[stage] = SettlingCache(self.caches[stage], self.motion)
        with renewing(model, cache, self.sites[stage], packed=self.packed) as renewal:
            yield
        self.renewals[stage] = renewal

    def write(self) -> None:
        """Make the recording that of this run. What stops it midway leaves the recording half of each."""
        for cache in self.settling.values():
            cache.settle()
        for renewal in self.renewals.values():
            renewal.write()


class Cold(Way):
    """A few steps and then all of them: `recording` makes its coarse ones, `thin` then the whole schedule on sites.

    Encoder and decoder run once, in the way of the `ends`: densely unless told.
    """

    def __init__(self, recording: Recording, thin: Thin, ends: Way | None = None) -> None:
        super().__init__(recording.clock)
        self.recording = recording
        self.thin = thin
        self.ends = ends or Dense(recording.clock)
        self.running: Way = self.ends

    @property
    def coarse(self) -> bool:
        """Whether the steps that are being made are the few."""
        return self.running is self.recording

    def passes(self, schedule: Schedule) -> Iterator[Schedule]:
        self.running = self.recording
        yield from self.recording.passes(schedule)
        self.running = self.thin
        yield schedule
        self.running = self.ends

    def engaged(self, stage: str, model: nn.Module) -> AbstractContextManager[object]:
        return self.running.engaged(stage, model)


class Lockstep(Way):
    """An original and its variants in one batch; `clocks` holds one clock per picture, the original's first.

    Variants that run together share their seconds evenly.

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
        with self.engaged(stage, model):  # its rows have clocks of their own
            yield

    @contextmanager
    def beside(self, stage: str, model: nn.Module | None) -> Iterator[None]:
        with nullcontext() if model is None else self.engaged(stage, model):
            yield

    @contextmanager
    def engaged(self, stage: str, model: nn.Module) -> Iterator[None]:
        @contextmanager
        def observe(rows: Sequence[int]) -> Iterator[None]:
            clock = Clock(self.clock.device)
            with clock.stage(stage):
                yield
            for row in rows:
                self.clocks[row].add(stage, clock.seconds(stage) / len(rows))

        sites = [by_stage[stage] for by_stage in self.sites]
        with alongside(model, sites, observe, packed=self.packed, moments=self.moments) as cache:
            self.caches[stage] = cache
            yield
