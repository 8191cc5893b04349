"""Pan: the canvas shows another part of the scene, and what comes into view at its borders is made."""

from __future__ import annotations

from sparsedit.errors import SettingsError
from sparsedit.sparse import Motion


def pan(by: tuple[int, int] | None, size: tuple[int, int], since: tuple[int, int] = (0, 0)) -> Motion:
    """What a picture of `size` (height, width) shows moves `by` pixels (right, down), after it moved by `since`.

    Raises SettingsError for a pan that is missing, none, or beyond the canvas.
    """
    if by is None:
        raise SettingsError("task pan needs to know by how much: --by DX,DY in pixels to the right and down")
    right, down = by
    if right == down == 0:
        raise SettingsError("a pan by 0,0 moves nothing; give --by DX,DY in pixels to the right and down")
    height, width = size
    if abs(right) >= width or abs(down) >= height:
        raise SettingsError(
            f"a pan by {right},{down} leaves nothing of a picture of {width}x{height}; pan by less than its sides"
        )
    return Motion.pan(size, right, down, since=since)
