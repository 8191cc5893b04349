"""What is in a landscape: a scene is drawn from a seed here, painted in `render`, told in `caption`.

The order of random draws is part of the format: the demo model was trained on scenes 256 px wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from sparsedit.errors import InputError
from sparsedit.suites.scenes.palette import ROOFS, SAILS, WALLS

HEIGHT = 256
BASE_WIDTH = 256

Time = Literal["day", "sunset", "night"]
Mountains = Literal["snowy", "rocky", "none"]
Ground = Literal["meadow", "desert", "snow"]
Water = Literal["lake", "river", "none"]
Trees = Literal["pine", "green", "autumn", "none"]
Position = Literal["left", "center", "right"]


@dataclass(frozen=True)
class House:
    """A house: colour names, the side of the picture it stands on, foot centre and width in pixels."""

    wall: str
    roof: str
    position: Position
    x: float
    y: float
    width: float
    flip: bool


@dataclass(frozen=True)
class TreeSpot:
    """A place where a tree grows when the scene has trees: x in pixels, depth in [0, 1] (1 = nearest)."""

    x: float
    depth: float
    scale: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """Everything a picture of HEIGHT x `width` shows; lengths in pixels from the top left corner.

    `seed` also drives the textures, so an edited scene keeps the seed of its original. `has_body` is the sun,
    or the moon at night; `boat` is the colour of its sail. Tree spots exist in scenes without trees, too:
    adding trees is then a change of one word.
    """

    seed: int
    width: int
    time: Time
    clouds: bool
    has_body: bool
    body_x: float
    body_y: float
    horizon: float
    mountains: Mountains
    ground: Ground
    water: Water
    water_x: float
    house: House | None
    trees: Trees
    tree_spots: tuple[TreeSpot, ...]
    boat: str | None
    boat_x: float

    @property
    def body(self) -> str:
        """The name of what shines in this sky."""
        return "moon" if self.time == "night" else "sun"


def sample_scene(seed: int, width: int = BASE_WIDTH) -> Scene:
    """The scene of a seed; `width` is a multiple of 8, at least 256 px, else InputError."""
    if width < BASE_WIDTH or width % 8:
        raise InputError(f"A scene cannot be {width} px wide: the width is a multiple of 8 from {BASE_WIDTH} px up.")
    rng = np.random.default_rng([7, seed])
    stretch = width / BASE_WIDTH
    time = cast(Time, str(rng.choice(["day", "sunset", "night"], p=[0.44, 0.29, 0.27])))
    clouds = bool(rng.random() < 0.45)
    has_body = bool(rng.random() < 0.6)
    body_x = float(rng.uniform(36, 220)) * stretch
    body_y = float(rng.uniform(64, 104) if time == "sunset" else rng.uniform(26, 60))
    horizon = float(rng.uniform(118, 142))
    mountains = cast(Mountains, str(rng.choice(["snowy", "rocky", "none"], p=[0.4, 0.3, 0.3])))
    ground = cast(Ground, str(rng.choice(["meadow", "desert", "snow"], p=[0.56, 0.22, 0.22])))
    water = cast(Water, str(rng.choice(["lake", "river", "none"], p=[0.36, 0.2, 0.44])))
    water_x = float(rng.uniform(84, 172)) * stretch
    house = _sample_house(rng, water, width)
    spots = _sample_tree_spots(rng, house, width)
    trees = _sample_trees(rng, ground)
    boat_x = water_x + rng.uniform(-34, 34)
    boat = str(rng.choice(SAILS)) if water == "lake" and rng.random() < 0.4 else None
    if water == "river" and house is not None and abs(house.x - water_x) < 80:
        water_x = 0.75 * width if house.x < width / 2 else 0.25 * width
    return Scene(
        seed=int(seed),
        width=width,
        time=time,
        clouds=clouds,
        has_body=has_body,
        body_x=body_x,
        body_y=body_y,
        horizon=horizon,
        mountains=mountains,
        ground=ground,
        water=water,
        water_x=water_x,
        house=house,
        trees=trees,
        tree_spots=spots,
        boat=boat,
        boat_x=boat_x,
    )


def _sample_house(rng: np.random.Generator, water: Water, width: int) -> House | None:
    side = cast(Position, str(rng.choice(["left", "right"])))
    if rng.random() >= 0.62:
        return None
    wall = WALLS[int(rng.integers(len(WALLS)))]
    roof = ROOFS[int(rng.integers(len(ROOFS)))]
    while roof == wall:
        roof = ROOFS[int(rng.integers(len(ROOFS)))]
    position = cast(Position, str(rng.choice(["left", "right", "center"], p=[0.38, 0.38, 0.24])))
    if water == "river" and position == "center":
        position = side
    anchor = {"left": 62, "center": 128, "right": 194}[position] * (width / BASE_WIDTH)
    return House(
        wall=wall,
        roof=roof,
        position=position,
        x=float(anchor + rng.uniform(-14, 14)),
        y=float(rng.uniform(196, 222)),
        width=float(rng.uniform(70, 96)),
        flip=bool(rng.random() < 0.5),
    )


def _sample_tree_spots(rng: np.random.Generator, house: House | None, width: int) -> tuple[TreeSpot, ...]:
    """Spots in two groves per 256 px, farthest first; one that lands on the house eight times is dropped."""
    stretch = width / BASE_WIDTH
    count = round(int(rng.integers(2, 6)) * stretch)
    groves = rng.uniform(20, width - 20, round(2 * stretch))
    spots = []
    for index in range(count):
        for _ in range(8):
            x = float(np.clip(groves[index % len(groves)] + rng.normal(0, 30), 8, width - 8))
            depth = float(rng.random() ** 0.8)
            if house is None or abs(x - house.x) > house.width * 0.62:
                spots.append(TreeSpot(x, depth, float(rng.uniform(0.85, 1.2)), int(rng.integers(1 << 30))))
                break
    return tuple(sorted(spots, key=lambda spot: spot.depth))


def _sample_trees(rng: np.random.Generator, ground: Ground) -> Trees:
    if rng.random() >= 0.62:
        return "none"
    trees = cast(Trees, str(rng.choice(["pine", "green", "autumn"], p=[0.4, 0.32, 0.28])))
    return "none" if ground == "desert" and rng.random() < 0.5 else trees
