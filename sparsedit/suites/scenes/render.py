"""From a scene to a picture: the layers back to front, in float, and to bytes at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from sparsedit.suites.scenes.ground import paint_ground
from sparsedit.suites.scenes.mountains import paint_mountains
from sparsedit.suites.scenes.objects import paint_boat, paint_house, paint_tree, tree_foot
from sparsedit.suites.scenes.paint import Canvas, Layer
from sparsedit.suites.scenes.scene import Scene
from sparsedit.suites.scenes.sky import paint_sky
from sparsedit.suites.scenes.texture import texture
from sparsedit.suites.scenes.water import paint_water

Picture = npt.NDArray[np.uint8]


def render(scene: Scene, *, flat: bool = False) -> Picture:
    """The picture of a scene, uint8 [256, width, 3]; `flat` gives its stroke sketch in plain colours."""
    canvas = Canvas.blank(scene, flat)
    canvas.image[:] = _backdrop(replace(scene, house=None, trees="none", boat=None), flat)
    if scene.boat is not None:
        paint_boat(canvas, scene.boat)
    _paint_house_and_trees(canvas)
    image = canvas.image
    if not flat:
        grain = 1 + 0.02 * texture("soft", canvas.rng(Layer.GRAIN), scene.width)
        for channel in range(3):
            image[..., channel] *= grain
    np.clip(image, 0, 1, out=image)
    return (image * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=2)
def _backdrop(scene: Scene, flat: bool) -> npt.NDArray[np.float32]:
    """The land, before anything stands on it; most edits leave it, so the latest ones are kept."""
    canvas = Canvas.blank(scene, flat)
    paint_sky(canvas)
    paint_mountains(canvas)
    paint_water(canvas, paint_ground(canvas))
    canvas.image.flags.writeable = False
    return canvas.image


def _paint_house_and_trees(canvas: Canvas) -> None:
    """What stands nearer to the viewer, lower in the picture, covers what stands behind it."""
    scene = canvas.scene
    standing: list[tuple[float, Callable[[], None]]] = []
    if scene.trees != "none":
        standing += [(tree_foot(canvas, spot), partial(paint_tree, canvas, spot)) for spot in scene.tree_spots]
    if scene.house is not None:
        standing.append((scene.house.y, partial(paint_house, canvas, scene.house)))
    for _, paint in sorted(standing, key=lambda item: item[0]):
        paint()
