"""The place of one recording: taken up from the disk where it is there already, else recorded and put there.

shelf = Shelf(keeping, stages, refiner, request, ...)       # CacheError if it cannot be held
with shelf.writing():                                       # one process at a time
    if not shelf.load(recorded):
        ...                                                 # record into recorded.caches
        shelf.finish(recorded)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparsedit.cache.compaction import Compaction
from sparsedit.cache.fingerprint import Fingerprint, fingerprint_of
from sparsedit.cache.folder import RecordingFolder
from sparsedit.cache.lock import locked
from sparsedit.cache.models import recordable
from sparsedit.cache.room import Room
from sparsedit.cache.size import SizeEstimate
from sparsedit.cache.tensors import open_tensors, write_tensors
from sparsedit.cache.tiers import TieredCache, tiers_of
from sparsedit.errors import CacheError, DamagedError, SettingsError
from sparsedit.measure.memory import memory_left
from sparsedit.plan import Request
from sparsedit.report.numbers import size_of
from sparsedit.results import Recorded
from sparsedit.skipping import can_skip
from sparsedit.sparse import SitePyramid
from sparsedit.stages import Stages


@dataclass(frozen=True)
class Keeping:
    """How recordings are kept: in a `folder` or in memory alone, under a `budget` of bytes in memory, with keys and
    values in "native" or "int8" `precision`, and with "all" `rows` of convolutions' maps or the "halo" of the masks."""

    folder: Path | None = None
    budget: int | None = None
    precision: str = "native"
    rows: str = "all"


class Shelf:
    """Where the recording of one request is or will be. What is asked for as it is by default needs no shelf: its
    `caches` are empty, and a recording makes its own.

    `sites` are those of all edits to come, by stage, for a recording cut down to them; `kept` the denoising steps that
    are recorded, where not all are. Raises SettingsError for a cut without edits; CacheError for what the budget or the
    disk has no room for, with the bytes that are needed and what would make them fewer.
    """

    def __init__(
        self,
        keeping: Keeping,
        stages: Stages,
        refiner: Stages | None,
        request: Request,
        *,
        moments: bool = False,
        kept: tuple[int, ...] | None = None,
        sites: Mapping[str, Sequence[SitePyramid]] | None = None,
    ) -> None:
        self.keeping = keeping
        self.stages = stages
        self.kept = kept
        self.caches: dict[str, TieredCache] = {}
        self.folder: RecordingFolder | None = None
        self.nbytes = 0
        self.loaded = False
        self.opening_s = 0.0
        if keeping == Keeping():
            return
        compaction = _form(keeping, sites)
        models = recordable(stages, refiner, request, kept)
        if keeping.folder is not None:
            form = compaction.fields() | {"moments": moments, "kept": kept}
            self.fingerprint = fingerprint_of(stages, refiner, request, **form)
            self.folder = RecordingFolder(keeping.folder / self.fingerprint.key)
        if contents := self.folder and self.folder.contents():
            self.nbytes = contents.nbytes
        else:
            how: dict[str, Any] = {"moments": moments, "kept": kept, "sites": sites}
            self.nbytes = recording_size(keeping, stages, refiner, request, **how)
            self._check_disk()
        tiers = tiers_of(stages.device, keeping.budget, on_disk=self.folder is not None)
        self.caches = {
            stage: TieredCache(stage, stages.device, tiers, compaction.of_stage(stage, each.model), self.folder)
            for stage, each in models.items()
        }

    def __str__(self) -> str:
        """What will be done, for a person who waits for it."""
        if self.folder is not None and self.folder.contents():
            return f"original from the cache ({size_of(self.nbytes)})"
        return "recording the original" + (f" ({size_of(self.nbytes)})" if self.nbytes else "")

    @property
    def mendable(self) -> bool:
        """Whether single steps can be recorded again, which takes all rows around a site."""
        return self.folder is not None and self.keeping.rows == "all"

    @property
    def waited_s(self) -> float:
        """Seconds for which edits have waited so far for steps to be read."""
        return sum(cache.waited_s for cache in self.caches.values())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the recording against other processes; waits for one that records it already."""
        if self.folder is None:
            yield
            return
        with locked(self.folder.lock):
            yield

    def load(self, recorded: Recorded) -> bool:
        """Take up the recording from the disk; whether it is there, whole, and undamaged as far as was read.

        Steps are verified when they are read, and may be damaged singly where the recording is `mendable`. Raises
        CacheError when what is there was made of something else.
        """
        recorded.caches = dict(self.caches)
        contents = None if self.folder is None else self.folder.contents()
        if self.folder is None or contents is None:
            return self._is_new()
        start = time.perf_counter()
        refuse_mismatch(self.folder, Fingerprint(contents.fingerprint), self.fingerprint)
        try:
            for stage, cache in self.caches.items():
                cache.load(contents.steps[stage])
            picture = open_tensors(self.folder.picture)
            picture.verify()
        except (DamagedError, KeyError):
            return self._is_new()
        decoder = self.caches.get("decoder")  # a model on pixels has none
        if decoder is not None and decoder.broken:
            return self._is_new()  # in which dtype it was recorded, its step alone knows
        if not self.mendable and any(cache.broken for cache in self.caches.values()):
            return self._is_new()
        recorded.picture = picture.tensors["picture"].clone()
        if decoder is not None:
            self.stages.set_decoder_dtype(decoder.steps[0].dtype)
        self.loaded, self.opening_s = True, time.perf_counter() - start
        return True

    def finish(self, recorded: Recorded) -> None:
        """Put a finished recording on the disk for others."""
        if self.folder is None:
            return
        for cache in self.caches.values():
            cache.finish()
        write_tensors(self.folder.picture, {"picture": recorded.picture.contiguous()}, {})
        made = datetime.now(UTC).isoformat(timespec="seconds")
        self.folder.finish(self.fingerprint, {stage: len(cache) for stage, cache in self.caches.items()}, made)

    def forget(self) -> None:
        """Declare what is on the disk not whole, so that whoever wants it next records it again."""
        if self.folder is not None:
            self.folder.spoil()

    def settle(self) -> None:
        """Bring a recording that lies in files into memory, to be changed there: the files are others' too.

        Raises CacheError, before anything is read, where the budget has no room for it; DamagedError for a broken file.
        """
        if self.folder is None:
            return
        need, budget = sum(cache.nbytes for cache in self.caches.values()), self.keeping.budget
        if budget is not None and need > budget:
            raise CacheError(
                f"a series holds its recording in memory, where it takes {size_of(need)}, and the budget is "
                f"{size_of(budget)}; raise --cache-budget, or make the recording smaller: --cache-precision int8, "
                "--record-steps"
            )
        tiers = tiers_of(self.stages.device, budget, on_disk=False)
        for cache in self.caches.values():
            cache.settle(tiers)

    def facts(self) -> dict[str, Any] | None:
        """What a record says of it: `opening_s` is what taking it up took, `waited_s` what edits waited for steps."""
        if self.keeping == Keeping():
            return None
        return {
            "source": "disk" if self.loaded else "recorded",
            "key": self.folder.key if self.folder else None,
            "precision": self.keeping.precision,
            "rows": self.keeping.rows,
            "bytes": self.nbytes,
            "opening_s": self.opening_s if self.loaded else None,
            "waited_s": self.waited_s,
        }

    def _is_new(self) -> bool:
        self.loaded = False
        if self.folder is not None:
            self.folder.begin()
        return False

    def _check_disk(self) -> None:
        folder = self.keeping.folder
        if folder is not None and self.nbytes > (free := shutil.disk_usage(_existing(folder)).free):
            raise CacheError(
                f"this recording takes {size_of(self.nbytes)} and {folder} has {size_of(free)} left; "
                "make room (sparsedit cache ls, rm), or use --cache-precision int8 or --record-steps"
            )


def recording_size(
    keeping: Keeping,
    stages: Stages,
    refiner: Stages | None,
    request: Request,
    *,
    moments: bool = False,
    kept: tuple[int, ...] | None = None,
    sites: Mapping[str, Sequence[SitePyramid]] | None = None,
) -> int:
    """The bytes that recording a request takes as it is kept; nothing is run, and the models may have no numbers.

    Raises SettingsError for a cut without edits, CacheError for what the budget has no room for, with the bytes that
    are needed and what would make them fewer.
    """
    form = _form(keeping, sites)
    height, width = request.frame.padded
    estimate = SizeEstimate(recordable(stages, refiner, request, kept), height, width, moments)
    skippable = refiner is None and can_skip(stages.pipe.scheduler)
    left = memory_left() if keeping.folder is None and stages.device.type == "cpu" else None
    Room(estimate, keeping.budget, left, keeping.folder, sites, skippable).check(form)
    return estimate.size(form).total


def _form(keeping: Keeping, sites: Mapping[str, Sequence[SitePyramid]] | None) -> Compaction:
    """What is kept of every step."""
    if keeping.rows == "halo" and not sites:
        raise SettingsError("only the rows of a halo can be kept when all edits are known: pass them, or keep all rows")
    return Compaction(keeping.precision == "int8", sites if keeping.rows == "halo" else None)


def refuse_mismatch(folder: RecordingFolder, found: Fingerprint, wanted: Fingerprint) -> None:
    """Raise CacheError naming every field in which a recording is not what is wanted."""
    if differences := found.differences(wanted):
        raise CacheError(
            f"the recording {folder.path} was made of something else: {'; '.join(differences)}. "
            f"Remove it with sparsedit cache rm {folder.path.parent} {folder.key}, or name another folder with --cache"
        )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
