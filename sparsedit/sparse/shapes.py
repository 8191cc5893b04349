"""How many rows a bfloat16 product on a CPU runs with.

For every new number of rows that meets a matrix, oneDNN makes a kernel, in a millisecond, and keeps it for as long as
the process lives, in 0.7 MB (benchmarks/NOTES.md). One mask brings tens of such shapes and a suite of them thousands.
So the first few shapes run as they are, which is fastest for edits with a few masks, and later ones with their rows
filled up, by a twelfth on average, to one of the few lengths that all can share. No bit of a result tells which: a
row's sum does not depend on the rows beside it, but for products of under 16 rows, which take other kernels and are
always filled up.
"""

from __future__ import annotations

from sparsedit.sparse.padding import FEWEST, places_for

FREE = 512
"""Shapes that a process runs as they are; 0.4 GB of kernels."""


class Shapes:
    """The shapes (rows and whatever else tells kernels apart) that have run as they are, `free` at most."""

    def __init__(self, free: int = FREE) -> None:
        self.free = free
        self.met: set[tuple[int, ...]] = set()

    def length(self, count: int, *others: int) -> int:
        """The number of rows to run `count` with, at least as many."""
        shape = (count, *others)
        if count >= FEWEST and (shape in self.met or len(self.met) < self.free):
            self.met.add(shape)
            return count
        return places_for(count)


SHAPES = Shapes()
"""Of this process, as oneDNN's kernels are."""
