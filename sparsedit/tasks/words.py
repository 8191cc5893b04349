"""What a prompt edit is asked to do, checked without a model: its words, and how its steps are shared out.

Imports no torch, so that plans can be checked before anything is loaded.
"""

from __future__ import annotations

from sparsedit.errors import SettingsError

SHARE = 0.1
"""Of the steps, how many are dense and find the mask where nothing is said. FISEdit takes a fifth (k = 10 of 50); what
a tenth finds is as good (docs/decisions.md, 41)."""
FEWEST = 3
"""Of a preview's steps, where the schedule has four times as many."""
SPREAD, LATER = 0.7, 1.5
"""Where a preview's last step lies in the schedule, and the power by which those before it crowd at its beginning:
of 20 steps (0, 5, 14), (0, 3, 8, 14) and (0, 2, 5, 9, 14) were the best, or level with it, of seven, seven and two
placements."""


def check_words(prompt: str, edit_prompt: str) -> None:
    """Raise SettingsError for an edit that says nothing new."""
    if prompt.split() == edit_prompt.split():
        raise SettingsError(f"the edit's prompt says the same as the original's ({prompt!r}): change some of its words")


def capture_steps(asked: int | None, last_dense: int, calls: int) -> int:
    """How many of `calls` steps find the mask. Raises SettingsError where none is left to be thin."""
    return _checked(max(1, round(SHARE * calls)) if asked is None else asked, last_dense, calls)


def preview_steps(asked: int | None, last_dense: int, calls: int) -> tuple[int, ...]:
    """Which of `calls` steps a preview makes. Raises as `capture_steps`."""
    usual = max(min(FEWEST, calls // 4), round(SHARE * calls))
    count = _checked(max(1, min(usual, calls - last_dense - 1)) if asked is None else asked, last_dense, calls)
    places = [0]
    for step in range(1, count):
        places.append(max(places[-1] + 1, round(SPREAD * calls * (step / (count - 1)) ** LATER)))
    return tuple(places)


def check_preview(*, of_few: bool) -> None:
    """Raise SettingsError for a preview of an original of which a few steps alone are recorded."""
    if of_few:
        raise SettingsError("a preview changes a recording of every step: leave out coarse, record_steps and fidelity")


def _checked(steps: int, last_dense: int, calls: int) -> int:
    if steps + last_dense >= calls:
        raise SettingsError(
            f"{steps} steps to find the mask and {last_dense} dense ones at the end leave none of {calls} to be thin; "
            "use more steps, or fewer of these"
        )
    return steps
