"""Whether a recording fits into what may be held of it, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsedit.cache.compaction import Compaction
from sparsedit.cache.size import SizeEstimate
from sparsedit.errors import CacheError
from sparsedit.report.numbers import size_of
from sparsedit.sparse import SitePyramid


@dataclass(frozen=True)
class Room:
    """A `budget` of bytes in memory for a recording that is estimated, or without one the bytes that are `left` (None:
    nobody knows).

    `folder` is where its files will lie: then memory holds the step in use and the next one alone. `sites` are those of
    all edits to come, where they are known; `skippable` says whether fewer steps could be recorded.
    """

    estimate: SizeEstimate
    budget: int | None
    left: int | None
    folder: Path | None
    sites: Mapping[str, Sequence[SitePyramid]] | None
    skippable: bool

    def check(self, asked: Compaction) -> None:
        """Raise CacheError for a form that does not fit, with the bytes it needs and what would make them fewer."""
        if self.limit is None or self._held(asked) <= self.limit:
            return
        what = "this recording takes" if self.folder is None else "of this recording the step in use and the next take"
        limit = f"{size_of(self.limit)} of memory are left;"
        if self.budget is not None:
            limit = f"the budget is {size_of(self.budget)}; raise --cache-budget, or"
        levers = ", ".join(self._levers(asked))
        raise CacheError(f"{what} {size_of(self._held(asked))}, and {limit} make it smaller: {levers}")

    @property
    def limit(self) -> int | None:
        return self.left if self.budget is None else self.budget

    def _held(self, form: Compaction) -> int:
        size = self.estimate.size(form)
        return size.total if self.folder is None else 2 * size.largest_step

    def _levers(self, asked: Compaction) -> list[str]:
        """What makes the form smaller, each with the bytes it leads to."""
        smallest = Compaction(True, self.sites or asked.sites)
        forms = {
            "--cache-precision int8": Compaction(True, asked.sites),
            "--cache-rows halo": Compaction(asked.int8, self.sites or asked.sites),
            "both": smallest,
        }
        need = {name: size for name, form in forms.items() if (size := self._held(form)) < self._held(asked)}
        if len(need) == 2:  # one of them was asked for already
            del need["both"]
        ways = [f"{name} ({size_of(size)})" for name, size in need.items()]
        if self.folder is not None:
            return ways
        fewer = {"--record-steps": asked}
        if ways and self._held(smallest) > (self.limit or 0):
            fewer["these and --record-steps"] = smallest
        for name, form in fewer.items():
            if found := self._most_steps(form):
                ways.append(f"{name} {found[0]} ({size_of(found[1])})")
        return [*ways, "--cache DIR"]

    def _most_steps(self, form: Compaction) -> tuple[int, int] | None:
        """The most steps that could be recorded under the budget, and their bytes; None where two do not fit."""
        size = self.estimate.size(form)
        counts = range(size.stages["unet"].steps - 1, 1, -1) if self.skippable else ()
        fitting = ((count, size.of_steps(count)) for count in counts)
        return next((found for found in fitting if found[1] <= (self.limit or 0)), None)
