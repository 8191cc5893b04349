"""What can be right or wrong about a picture: the attributes of a scene, as numbers."""

from __future__ import annotations

from sparsedit.suites.scenes.palette import ROOFS, SAILS, WALLS
from sparsedit.suites.scenes.scene import Scene
from training.pictures import has_trees

NONE = "none"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "time": ("day", "sunset", "night"),
    "ground": ("meadow", "desert", "snow"),
    "mountains": ("snowy", "rocky", NONE),
    "sun or moon": ("yes", NONE),
    "clouds": ("yes", NONE),
    "water": ("lake", "river", NONE),
    "trees": ("pine", "green", "autumn", NONE),
    "house": ("left", "center", "right", NONE),
    "wall": (*WALLS, NONE),
    "roof": (*ROOFS, NONE),
    "boat": (*SAILS, NONE),
}


def attributes(scene: Scene) -> dict[str, str]:
    """The value of every attribute of a scene; "house" is its position, "boat" the colour of its sail."""
    house = scene.house
    return {
        "time": scene.time,
        "ground": scene.ground,
        "mountains": scene.mountains,
        "sun or moon": "yes" if scene.has_body else NONE,
        "clouds": "yes" if scene.clouds else NONE,
        "water": scene.water,
        "trees": scene.trees if has_trees(scene) else NONE,
        "house": NONE if house is None else house.position,
        "wall": NONE if house is None else house.wall,
        "roof": NONE if house is None else house.roof,
        "boat": scene.boat or NONE,
    }


def labels(scene: Scene) -> list[int]:
    """The place of each attribute's value in `ATTRIBUTES`, in its order."""
    values = attributes(scene)
    return [options.index(values[name]) for name, options in ATTRIBUTES.items()]
