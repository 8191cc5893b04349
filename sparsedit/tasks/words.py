"""What a prompt edit is asked to do, checked without a model: its words, and how its steps are shared out.

Imports no torch, so that plans can be checked before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsedit.errors import SettingsError

SHARE = 0.1
"""Of the steps, how many are dense and find the mask where they are the first. FISEdit takes a fifth (k = 10 of 50);
what a tenth finds is as good (docs/decisions.md, 41)."""
MADE = 7
"""About how many steps are made where others are left out, however many there are: what is foretold depends on how far
apart they lie in the schedule, as even as can be (benchmarks/NOTES.md)."""
FOUND = 0.75
"""The share of the schedule in which spread steps look for the mask."""
FEWEST = 8
"""Of a schedule's steps, from which on some are left out where nothing is said."""


@dataclass(frozen=True)
class Shares:
    """Of an edit's steps those that are made: `dense` ones before the mask is known, which is after `found` of them,
    then `thin` ones, and from `end` on every one of `calls`, dense again."""

    dense: tuple[int, ...]
    thin: tuple[int, ...]
    found: int
    end: int
    calls: int

    @property
    def made(self) -> frozenset[int]:
        return frozenset((*self.dense, *self.thin, *range(self.end, self.calls)))

    @property
    def leave_out(self) -> bool:
        """Whether steps are left out."""
        return len(self.made) < self.calls

    def masked(self) -> Shares:
        """The same steps where a mask is given: all are thin that are not dense again."""
        return Shares((), tuple(sorted({*self.dense, *self.thin})), 0, self.end, self.calls)


def check_words(prompt: str, edit_prompt: str) -> None:
    """Raise SettingsError for an edit that says nothing new."""
    if prompt.split() == edit_prompt.split():
        raise SettingsError(f"the edit's prompt says the same as the original's ({prompt!r}): change some of its words")


def capture_steps(asked: int | None, last_dense: int, calls: int) -> int:
    """How many of the first of `calls` steps find the mask. Raises SettingsError where none is left to be thin."""
    return _checked(max(1, round(SHARE * calls)) if asked is None else asked, last_dense, calls)


def first_steps(asked: int | None, last_dense: int, calls: int) -> Shares:
    """The first steps dense, as in FISEdit, and none left out. Raises as `capture_steps`."""
    found, end = capture_steps(asked, last_dense, calls), calls - last_dense
    return Shares(tuple(range(found)), tuple(range(found, end)), found, end, calls)


def spread_steps(asked: int | None, last_dense: int, calls: int) -> Shares:
    """Every n-th step made, dense ones in the schedule's first part, or as many as are `asked` for, and thin ones after
    it, at least one. Raises as `capture_steps`."""
    end = calls - last_dense
    gap = max(1, min(max(2, round(calls / MADE)), end - 1))
    made = range(0, end, gap)
    usual = sum(step <= FOUND * calls for step in made)
    count = _checked(max(1, min(usual, len(made) - 1)) if asked is None else asked, last_dense, calls)
    if asked is not None and asked >= len(made):  # as even as so many can lie before a thin one
        made = range(0, end, max(1, (end - 1) // asked))
    dense, thin = tuple(made[:count]), tuple(made[count:])
    return Shares(dense, thin, dense[-1] + 1, end, calls)


def spreads(mask_from: str | None, calls: int, *, of_few: bool) -> bool:
    """Whether an edit's dense steps are spread and others left out. Raises SettingsError where that is asked for upon
    an original of which a few steps alone are recorded."""
    if mask_from == "spread" and of_few:
        raise SettingsError(
            "steps are left out upon a recording of every step: leave out coarse, record_steps and fidelity, or use "
            "mask_from latents"
        )
    return mask_from == "spread" or (mask_from is None and calls >= FEWEST and not of_few)


def _checked(steps: int, last_dense: int, calls: int) -> int:
    if steps + last_dense >= calls:
        raise SettingsError(
            f"{steps} steps to find the mask and {last_dense} dense ones at the end leave none of {calls} to be thin; "
            "use more steps, or fewer of these"
        )
    return steps
