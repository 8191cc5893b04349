"""Rotate: the picture turns on its canvas, and the corners that come into view are made."""

from __future__ import annotations

from sparsedit.errors import SettingsError
from sparsedit.sparse import Motion


def turn(angle: float | None, size: tuple[int, int]) -> Motion:
    """A picture of `size` (height, width) turns by `angle` degrees, counterclockwise.

    Raises SettingsError for an angle that is missing or turns nothing.
    """
    if angle is None:
        raise SettingsError("task rotate needs an angle: --angle A in degrees, counterclockwise")
    if angle % 360 == 0:
        raise SettingsError(f"an angle of {angle:g} turns nothing; give --angle A in degrees, such as 5")
    return Motion.turn(size, angle)
