"""Changes of scenes: one thing is added, removed, recoloured or replaced, all else keeps its pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from sparsedit.errors import InputError, did_you_mean
from sparsedit.suites.scenes.caption import caption
from sparsedit.suites.scenes.palette import ROOFS, SAILS, WALLS
from sparsedit.suites.scenes.render import Picture, render
from sparsedit.suites.scenes.scene import BASE_WIDTH, Ground, House, Scene, Time, Trees, sample_scene

# PIE-Bench's editing_type_id and its name.
EDIT_TYPES = {
    0: "random",
    1: "change object",
    2: "add object",
    3: "delete object",
    4: "change content",
    5: "change pose",
    6: "change colour",
    7: "change material",
    8: "change background",
    9: "change style",
}

# Scenes from this seed up are in no training set.
FIRST_TEST_SEED = 1 << 31

# Pixels that differ by more than this many levels belong to the mask, and those around them.
_MASK_LEVELS = 10
_MASK_MARGIN = 4

_TREES: tuple[Trees, ...] = ("pine", "green", "autumn")
_GROUNDS: tuple[Ground, ...] = ("meadow", "desert", "snow")
_TIMES: tuple[Time, ...] = ("day", "sunset", "night")

Change = Callable[[Scene, np.random.Generator], Scene | None]
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class Edit:
    """A kind of edit: its PIE-Bench type, whether it stays in one part of the picture, and the change itself.

    `change` returns None where the edit makes no sense, as in removing a house that is not there.
    """

    edit_type: int
    local: bool
    change: Change


@dataclass(frozen=True)
class EditPair:
    """An edit of a sampled scene with everything that belongs to it; pictures uint8 [256, width, 3].

    `mask` is bool [256, width], true where the pictures differ and a few pixels around; the sketches are the
    stroke versions of both scenes; the prompts differ in the edited words alone.
    """

    kind: str
    source: Scene
    target: Scene
    source_picture: Picture
    target_picture: Picture
    source_sketch: Picture
    target_sketch: Picture
    mask: npt.NDArray[np.bool_]
    source_prompt: str
    target_prompt: str


def edit_scene(scene: Scene, kind: str, rng: np.random.Generator) -> Scene | None:
    """The scene after an edit of a kind, or None where the edit makes no sense; InputError if unknown."""
    if kind not in EDITS:
        raise InputError(f"There is no edit {kind!r} of a landscape{did_you_mean(kind, EDITS)}.")
    return EDITS[kind].change(scene, rng)


def edit_pair(seed: int, kind: str | None = None, *, width: int = BASE_WIDTH) -> EditPair:
    """An edit of a kind, or of a random one, on a scene that was in no training set."""
    rng = np.random.default_rng([seed, 99])
    target = None
    while target is None:
        drawn = kind or str(rng.choice(list(EDITS)))
        source = sample_scene(int(rng.integers(1 << 30)) + FIRST_TEST_SEED, width)
        target = edit_scene(source, drawn, rng)
    before, after = render(source), render(target)
    changed = np.abs(before.astype(int) - after).max(-1) > _MASK_LEVELS
    return EditPair(
        kind=drawn,
        source=source,
        target=target,
        source_picture=before,
        target_picture=after,
        source_sketch=render(source, flat=True),
        target_sketch=render(target, flat=True),
        mask=binary_dilation(changed, iterations=_MASK_MARGIN),
        source_prompt=caption(source, seed, full=True),
        target_prompt=caption(target, seed, full=True),
    )


def _other(rng: np.random.Generator, words: Sequence[Word], *taken: str) -> Word:
    free = [word for word in words if word not in taken]
    return free[int(rng.integers(len(free)))]


def _recolor_house(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if scene.house is None:
        return None
    wall = _other(rng, WALLS, scene.house.wall, scene.house.roof)
    return replace(scene, house=replace(scene.house, wall=wall))


def _recolor_roof(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if scene.house is None:
        return None
    roof = _other(rng, ROOFS, scene.house.wall, scene.house.roof)
    return replace(scene, house=replace(scene.house, roof=roof))


def _add_house(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """The house of another scene; not one in the centre, where water often is."""
    if scene.house is not None:
        return None
    house: House | None = None
    while house is None or house.position == "center":
        house = sample_scene(int(rng.integers(1 << 30)), scene.width).house
    return replace(scene, house=house)


def _remove_house(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.house is None else replace(scene, house=None)


def _add_trees(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return replace(scene, trees=_other(rng, _TREES)) if scene.trees == "none" else None


def _remove_trees(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.trees == "none" else replace(scene, trees="none")


def _change_trees(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.trees == "none" else replace(scene, trees=_other(rng, _TREES, scene.trees))


def _add_boat(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if scene.water != "lake" or scene.boat is not None:
        return None
    return replace(scene, boat=_other(rng, SAILS))


def _remove_boat(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.boat is None else replace(scene, boat=None)


def _recolor_sail(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.boat is None else replace(scene, boat=_other(rng, SAILS, scene.boat))


def _add_lake(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return replace(scene, water="lake") if scene.water == "none" else None


def _remove_lake(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return replace(scene, water="none") if scene.water == "lake" and scene.boat is None else None


def _snow_on_mountains(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return replace(scene, mountains="snowy") if scene.mountains == "rocky" else None


def _remove_mountains(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.mountains == "none" else replace(scene, mountains="none")


def _change_ground(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, ground=_other(rng, _GROUNDS, scene.ground))


def _change_time(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, time=_other(rng, _TIMES, scene.time))


def _add_clouds(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.clouds else replace(scene, clouds=True)


def _remove_sun(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return replace(scene, has_body=False) if scene.has_body else None


def _add_sun(scene: Scene, rng: np.random.Generator) -> Scene | None:
    return None if scene.has_body else replace(scene, has_body=True)


# In the order in which `edit_pair` draws them.
EDITS = {
    "recolor_house": Edit(6, True, _recolor_house),
    "recolor_roof": Edit(6, True, _recolor_roof),
    "add_house": Edit(2, True, _add_house),
    "remove_house": Edit(3, True, _remove_house),
    "add_trees": Edit(2, True, _add_trees),
    "remove_trees": Edit(3, True, _remove_trees),
    "change_trees": Edit(1, True, _change_trees),
    "add_boat": Edit(2, True, _add_boat),
    "remove_boat": Edit(3, True, _remove_boat),
    "recolor_sail": Edit(6, True, _recolor_sail),
    "add_lake": Edit(2, True, _add_lake),
    "remove_lake": Edit(3, True, _remove_lake),
    "snow_on_mountains": Edit(7, False, _snow_on_mountains),
    "remove_mountains": Edit(3, False, _remove_mountains),
    "change_ground": Edit(8, False, _change_ground),
    "change_time": Edit(8, False, _change_time),
    "add_clouds": Edit(2, False, _add_clouds),
    "remove_sun": Edit(3, True, _remove_sun),
    "add_sun": Edit(2, True, _add_sun),
}
