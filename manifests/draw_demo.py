"""Draws the pictures of demo.yaml and its neighbours into a folder beside it: `python manifests/draw_demo.py [FOLDER]`.

Three landscapes that no model was trained on, and their edits as a user would make them: flat strokes painted
over a part of a picture, or a mask around what shall become something else. Seeded: the pictures in the
repository are what this script draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_dilation

from sparsedit.suites.scenes.edits import FIRST_TEST_SEED
from sparsedit.suites.scenes.render import Picture, render
from sparsedit.suites.scenes.scene import Scene, sample_scene

Mask = npt.NDArray[np.bool_]

# Levels of 255 by which a pixel must differ to belong to an edit.
STROKE_LEVELS = 8
OBJECT_LEVELS = 3
# A mask drawn by hand goes around its object at some distance; this one in pixels.
MASK_MARGIN = 2

SCENES = {
    "meadow": sample_scene(FIRST_TEST_SEED + 39020),
    "night": sample_scene(FIRST_TEST_SEED + 99692),
    "lake": sample_scene(FIRST_TEST_SEED + 106468, width=512),
}


def changed(before: Picture, after: Picture, levels: int) -> Mask:
    """Where two pictures [H, W, 3] differ by more than `levels` in some channel: bool [H, W]."""
    return np.abs(before.astype(int) - after).max(-1) > levels


def painted(scene: Scene, target: Scene) -> Picture:
    """The scene with something new painted on it: the strokes of `target`, where the two sketches differ."""
    strokes = render(target, flat=True)
    where = changed(render(scene, flat=True), strokes, STROKE_LEVELS)
    return np.where(where[..., None], strokes, render(scene))


def painted_over(scene: Scene, target: Scene) -> Picture:
    """The scene with a part of it covered: the strokes of `target`, where the finished pictures differ."""
    original = render(scene)
    where = changed(original, render(target), STROKE_LEVELS)
    return np.where(where[..., None], render(target, flat=True), original)


def around(scene: Scene, target: Scene) -> Mask:
    """A mask around all that differs between two scenes, shadows included."""
    where = changed(render(scene), render(target), OBJECT_LEVELS)
    return binary_dilation(where, iterations=MASK_MARGIN)


def sky(scene: Scene) -> Mask:
    """The sky above the mountains: what stays the same when they are taken away, down to the far hills."""
    behind = ~changed(render(scene), render(replace(scene, mountains="none")), OBJECT_LEVELS)
    rows = np.arange(len(behind))[:, None]
    return behind & (rows < scene.horizon - 14)


def house(scene: Scene, *, wall: str = "", roof: str = "") -> Scene:
    """The scene with other walls or another roof on its house."""
    assert scene.house is not None
    old = scene.house
    return replace(scene, house=replace(old, wall=wall or old.wall, roof=roof or old.roof))


STROKES: dict[str, Callable[[], Picture]] = {
    "meadow_sun": lambda: painted(SCENES["meadow"], replace(SCENES["meadow"], has_body=True)),
    "meadow_roof": lambda: painted_over(SCENES["meadow"], house(SCENES["meadow"], roof="red")),
    "meadow_walls": lambda: painted_over(SCENES["meadow"], house(SCENES["meadow"], wall="red")),
    "meadow_trees": lambda: painted(SCENES["meadow"], replace(SCENES["meadow"], trees="pine")),
    "meadow_lake": lambda: painted(SCENES["meadow"], replace(SCENES["meadow"], water="lake", boat="red")),
    "night_moon": lambda: painted(SCENES["night"], replace(SCENES["night"], has_body=True)),
    "night_roof": lambda: painted_over(SCENES["night"], house(SCENES["night"], roof="red")),
    "lake_bare": lambda: painted_over(SCENES["lake"], replace(SCENES["lake"], trees="none")),
    "lake_clouds": lambda: painted(SCENES["lake"], replace(SCENES["lake"], clouds=True)),
    "lake_snow": lambda: painted(SCENES["lake"], replace(SCENES["lake"], mountains="snowy")),
}
MASKS: dict[str, Callable[[], Mask]] = {
    "meadow_house_mask": lambda: around(SCENES["meadow"], replace(SCENES["meadow"], house=None)),
    "meadow_sky_mask": lambda: sky(SCENES["meadow"]),
}


def pictures() -> dict[str, Image.Image]:
    """Every picture of the manifest by its file name without suffix; masks are black and white."""
    originals = {name: Image.fromarray(render(scene)) for name, scene in SCENES.items()}
    edited = {name: Image.fromarray(draw()) for name, draw in STROKES.items()}
    masks = {name: Image.fromarray(draw()) for name, draw in MASKS.items()}
    return originals | edited | masks


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        picture.save(folder / f"{name}.png", optimize=True)
