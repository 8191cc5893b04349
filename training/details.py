"""Where the small details of a scene lie, which an autoencoder smooths away first: stars and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from sparsedit.suites.scenes.scene import Scene
from training.pictures import Picture
from training.settings import DetailWeights

Box = tuple[slice, slice]  # rows and columns of a picture

_TALLEST = 110  # pixels that the highest mountain rises above the horizon
_HILLS = 12  # and what does where there are none
_FINE = 1.5  # pixels: what a Gaussian of this deviation blurs away is fine


def fine(picture: Picture) -> Any:
    """The fine contrast [H, W, 3] of a picture, in its levels of 0 to 255: what is left of it without its blur."""
    values = picture.astype(np.float64)
    return values - gaussian_filter(values, (_FINE, _FINE, 0))


def star_box(scene: Scene) -> Box | None:
    """The sky above the mountains on a clear night without a moon: there is nothing in it but stars."""
    if scene.time != "night" or scene.clouds or scene.has_body:
        return None
    below = _HILLS if scene.mountains == "none" else _TALLEST
    return slice(0, int(scene.horizon) - below), slice(0, scene.width)


def wall_box(scene: Scene) -> Box | None:
    """The walls of a house, with their door and windows."""
    if scene.house is None:
        return None
    house = scene.house
    return (
        slice(round(house.y - 0.44 * house.width), round(house.y)),
        slice(round(house.x - house.width / 2), round(house.x + house.width / 2)),
    )


def clear_nights(scenes: Sequence[Scene]) -> npt.NDArray[np.int64]:
    """Which scenes have stars to see."""
    return np.flatnonzero([scene.time == "night" and not scene.clouds for scene in scenes])


def detail_weights(scene: Scene, picture: Picture, weights: DetailWeights) -> npt.NDArray[np.float32]:
    """How much more the pixels [H, W] of a scene's picture weigh: 0, and in night skies and on the walls of houses
    as much as their fine contrast, of 1 at most, times a weight."""
    result = np.zeros(picture.shape[:2], np.float32)
    contrast = np.abs(fine(picture)).mean(2) / 255
    if scene.time == "night":
        sky = slice(0, int(scene.horizon) - _HILLS)  # with the mountains in it: they have little contrast at night
        result[sky] = weights.stars * contrast[sky]
    if (walls := wall_box(scene)) is not None:
        result[walls] = weights.windows * contrast[walls]
    return result
