"""Numbers that are affine in some counts, learnt from examples, in whole numbers and exactly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Vector = list[Fraction]


class Affine:
    """Values y = c + A x of a few counts x, c and A unknown: what examples determine is answered, the rest is not."""

    def __init__(self) -> None:
        # One row for each example that told something new: [1, *x, *y], reduced, led by the 1 at `pivot`.
        self._rows: list[tuple[int, Vector]] = []

    def learn(self, counts: Sequence[int], values: Sequence[int]) -> None:
        """An example; one that follows from those before tells nothing."""
        row = self._reduced([1, *counts, *values])
        pivot = next((place for place, number in enumerate(row[: 1 + len(counts)]) if number), None)
        if pivot is not None:
            self._rows.append((pivot, [number / row[pivot] for number in row]))

    def values(self, counts: Sequence[int], number: int) -> tuple[int, ...] | None:
        """The `number` values at these counts; None where the examples leave them open."""
        rest = self._reduced([1, *counts, *[0] * number])
        known, values = rest[: 1 + len(counts)], rest[1 + len(counts) :]
        return None if any(known) else tuple(int(-value) for value in values)

    def _reduced(self, row: Sequence[int]) -> Vector:
        """The row less what the examples say of it."""
        rest = [Fraction(number) for number in row]
        for pivot, example in self._rows:
            factor = rest[pivot]
            if factor:
                rest = [number - factor * other for number, other in zip(rest, example, strict=True)]
        return rest
