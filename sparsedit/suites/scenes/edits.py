"""Changes of scenes: one thing is added, removed, recoloured or replaced, all else keeps its pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from sparsedit.errors import InputError, did_you_mean
from sparsedit.suites.scenes.caption import caption
from sparsedit.suites.scenes.palette import ROOFS, SAILS, WALLS
from sparsedit.suites.scenes.render import Picture, render
from sparsedit.suites.scenes.scene import BASE_WIDTH, Ground, House, Scene, Time, Trees, sample_scene

# Scenes from this seed up are in no training set.
FIRST_TEST_SEED = 1 << 31

# An edit whose sketches differ in fewer pixels is hardly seen.
_SEEN_PIXELS = 250

# Of PIE-Bench's types the one that paints on what is there.
_ADD_OBJECT = 2

# Pixels that differ by more than this many levels belong to the mask, and those around them.
_MASK_LEVELS = 10
_MASK_MARGIN = 4

_TREES: tuple[Trees, ...] = ("pine", "green", "autumn")
_GROUNDS: tuple[Ground, ...] = ("meadow", "desert", "snow")
_TIMES: tuple[Time, ...] = ("day", "sunset", "night")
_GROUND_NOUNS = ("meadow", "field", "desert", "snow")
_TIME_NOUNS = ("day", "noon", "sunset", "dusk", "night")

Change = Callable[[Scene, np.random.Generator], Scene | None]
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class Edit:
    """A kind of edit: its PIE-Bench type, whether it stays in one part of the picture, and the change itself.

    `change` returns None where the edit makes no sense, as in removing a house that is not there. `instruction` is a
    template over the scenes `before` and `after`; `nouns` are the words by which captions may name the edited thing;
    `may_hide` says that other things may cover it, or that the scene may have no place for it.
    """

    edit_type: int
    local: bool
    change: Change
    instruction: str
    nouns: tuple[str, ...] = ()
    may_hide: bool = False


@dataclass(frozen=True)
class SceneEdit:
    """A sampled scene, what an edit makes of it, and both in words; the prompts differ in the edited words alone."""

    kind: str
    source: Scene
    target: Scene
    source_prompt: str
    target_prompt: str

    @property
    def edit_type(self) -> int:
        """PIE-Bench's type."""
        return EDITS[self.kind].edit_type

    @property
    def instruction(self) -> str:
        """The edit as one would ask a person for it."""
        return EDITS[self.kind].instruction.format(before=self.source, after=self.target)

    @property
    def blended_word(self) -> str:
        """The noun of the edited thing in either prompt, "house house", or "" when one of them has none."""
        words = [set(re.findall(r"\w+", prompt)) for prompt in (self.source_prompt, self.target_prompt)]
        nouns = [next((noun for noun in EDITS[self.kind].nouns if noun in said), "") for said in words]
        return " ".join(nouns) if all(nouns) else ""


@dataclass(frozen=True)
class EditPair(SceneEdit):
    """An edit with its pictures, each uint8 [256, width, 3].

    `mask` is bool [256, width], true where the finished pictures differ and a few pixels around. `target_sketch` is
    the stroke version of the edited scene; `painted` is the source with its strokes on it, inside the mask: what is
    added is drawn as a shape, anything else is painted over wherever it showed.
    """

    source_picture: Picture
    target_picture: Picture
    target_sketch: Picture
    painted: Picture
    mask: npt.NDArray[np.bool_]


def edit_scene(scene: Scene, kind: str, rng: np.random.Generator) -> Scene | None:
    """The scene after an edit of a kind, or None where the edit makes no sense; InputError if unknown."""
    if kind not in EDITS:
        raise InputError(f"There is no edit {kind!r} of a landscape{did_you_mean(kind, EDITS)}.")
    return EDITS[kind].change(scene, rng)


def sample_edit(seed: int, kind: str | None = None, *, width: int = BASE_WIDTH) -> SceneEdit:
    """An edit of a kind, or of a random one, that can be seen, on a scene that was in no training set."""
    rng = np.random.default_rng([seed, 99])
    while True:
        drawn = kind or str(rng.choice(list(EDITS)))
        source = sample_scene(int(rng.integers(1 << 30)) + FIRST_TEST_SEED, width)
        target = edit_scene(source, drawn, rng)
        if target is not None and (not EDITS[drawn].may_hide or _seen(source, target)):
            return SceneEdit(drawn, source, target, *_prompts(source, target, seed))


def draw_edit(edit: SceneEdit) -> EditPair:
    """The edit with its pictures."""
    before, after = render(edit.source), render(edit.target)
    strokes = render(edit.target, flat=True)
    changed = _differ(before, after)
    mask = binary_dilation(changed, iterations=_MASK_MARGIN)
    drawn = _differ(render(edit.source, flat=True), strokes) & mask if edit.edit_type == _ADD_OBJECT else changed
    return EditPair(
        **vars(edit),
        source_picture=before,
        target_picture=after,
        target_sketch=strokes,
        painted=np.where(drawn[..., None], strokes, before),
        mask=mask,
    )


def edit_pair(seed: int, kind: str | None = None, *, width: int = BASE_WIDTH) -> EditPair:
    """`sample_edit`, drawn."""
    return draw_edit(sample_edit(seed, kind, width=width))


def _prompts(source: Scene, target: Scene, seed: int) -> tuple[str, str]:
    """Both scenes in the first wording from `seed` up that says what changed; some leave out a roof's colour."""
    wordings = ([caption(scene, wording, full=True) for scene in (source, target)] for wording in count(seed))
    return next((before, after) for before, after in wordings if before != after)


def _seen(source: Scene, target: Scene) -> bool:
    """Whether the edit shows; strokes tell, and are painted faster than pictures."""
    return int(_differ(render(source, flat=True), render(target, flat=True)).sum()) >= _SEEN_PIXELS


def _differ(before: Picture, after: Picture) -> npt.NDArray[np.bool_]:
    red, green, blue = np.moveaxis(np.maximum(before, after) - np.minimum(before, after) > _MASK_LEVELS, -1, 0)
    return red | green | blue


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
    "recolor_house": Edit(6, True, _recolor_house, "Paint the house {after.house.wall}", ("house",)),
    "recolor_roof": Edit(6, True, _recolor_roof, "Paint the roof {after.house.roof}", ("roof",)),
    "add_house": Edit(2, True, _add_house, "Add a {after.house.wall} house on the {after.house.position}"),
    "remove_house": Edit(3, True, _remove_house, "Remove the house"),
    "add_trees": Edit(2, True, _add_trees, "Add {after.trees} trees", may_hide=True),
    "remove_trees": Edit(3, True, _remove_trees, "Remove the trees", may_hide=True),
    "change_trees": Edit(
        1, True, _change_trees, "Turn the trees into {after.trees} trees", ("trees", "pines"), may_hide=True
    ),
    "add_boat": Edit(2, True, _add_boat, "Add a boat with a {after.boat} sail", may_hide=True),
    "remove_boat": Edit(3, True, _remove_boat, "Remove the boat", may_hide=True),
    "recolor_sail": Edit(6, True, _recolor_sail, "Make the sail {after.boat}", ("sail",), may_hide=True),
    "add_lake": Edit(2, True, _add_lake, "Add a lake"),
    "remove_lake": Edit(3, True, _remove_lake, "Remove the lake"),
    "snow_on_mountains": Edit(7, False, _snow_on_mountains, "Cover the mountains with snow", ("mountains",)),
    "remove_mountains": Edit(3, False, _remove_mountains, "Remove the mountains"),
    "change_ground": Edit(8, False, _change_ground, "Turn the {before.ground} into {after.ground}", _GROUND_NOUNS),
    "change_time": Edit(8, False, _change_time, "Make it {after.time}", _TIME_NOUNS),
    "add_clouds": Edit(2, False, _add_clouds, "Add clouds"),
    "remove_sun": Edit(3, True, _remove_sun, "Remove the {before.body}", may_hide=True),
    "add_sun": Edit(2, True, _add_sun, "Add the {after.body}", may_hide=True),
}
