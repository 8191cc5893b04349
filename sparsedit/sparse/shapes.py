"""How many rows a bfloat16 product on a CPU runs with.

For every new number of rows that meets a matrix, oneDNN makes a kernel, in a millisecond, and keeps it for as long as
the process lives, in 0.7 MB (benchmarks/NOTES.md). One mask brings tens of such shapes and a suite of them thousands.
So the first few shapes run as they are, which is fastest for edits with a few masks, and later ones with their rows
filled up to a number that has met the matrix already, where one is at most a quarter larger; and when many have been
met, so that most are near, twice as large. No bit of a result tells which: a row's sum does not depend on the rows
beside it, but for products of under 16 rows, which take other kernels and are always filled up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from threading import Lock

from sparsedit.sparse.padding import FEWEST, places_for

FREE = 512
"""Shapes that a process runs as they are; 0.4 GB of kernels."""
NEAR = 384
"""Further shapes that are made where none is near."""


class Shapes:
    """The numbers of rows that each matrix, or whatever else tells kernels apart, has met, in order; the first `free`
    of them all were met as they were."""

    def __init__(self, free: int = FREE) -> None:
        self.free = free
        self.count = 0
        self._lock = Lock()
        self.met: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)

    def length(self, rows: int, *others: int) -> int:
        """The number of rows to run so many `rows` with, at least as many; models on several threads may ask."""
        with self._lock:
            return self._length(rows, self.met[others])

    def _length(self, rows: int, lengths: list[int]) -> int:
        least = max(rows, FEWEST)
        place = bisect_left(lengths, least)
        new = most = least
        if self.count >= self.free:
            new = places_for(rows)
            most = max(new, rows + rows // (4 if self.count < self.free + NEAR else 1))
        if place < len(lengths) and lengths[place] <= most:
            return lengths[place]
        lengths.insert(place, new)
        self.count += 1
        return new


SHAPES = Shapes()
"""Of this process, as oneDNN's kernels are."""
