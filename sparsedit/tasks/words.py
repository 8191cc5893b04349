"""What a prompt edit is asked to do, checked without a model: its words, and how its steps are shared out.

Imports no torch, so that plans can be checked before anything is loaded.
"""

from __future__ import annotations

from sparsedit.errors import SettingsError

SHARE = 0.1
"""Of the steps, how many are dense and find the mask where nothing is said. FISEdit takes a fifth (k = 10 of 50); what
a tenth finds is as good (docs/decisions.md, 41)."""


def check_words(prompt: str, edit_prompt: str) -> None:
    """Raise SettingsError for an edit that says nothing new."""
    if prompt.split() == edit_prompt.split():
        raise SettingsError(f"the edit's prompt says the same as the original's ({prompt!r}): change some of its words")


def capture_steps(asked: int | None, last_dense: int, calls: int) -> int:
    """How many of `calls` steps find the mask. Raises SettingsError where none is left to be thin."""
    steps = max(1, round(SHARE * calls)) if asked is None else asked
    if steps + last_dense >= calls:
        raise SettingsError(
            f"{steps} steps to find the mask and {last_dense} dense ones at the end leave none of {calls} to be thin; "
            "use more steps, or fewer of these"
        )
    return steps
