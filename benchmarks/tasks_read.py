"""What the attribute probe reads off the pictures of an edit by words: is the change there?"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparsedit.cache.fingerprint import sampled_hash
from sparsedit.images import load_image
from sparsedit.suites.demo import demo_item
from training.attributes import ATTRIBUTES, attributes
from training.pictures import to_tensor
from training.probe import Probe, load_probe

CHANGED = {
    "recolor_house": "wall",
    "recolor_roof": "roof",
    "add_house": "wall",  # where a house is to stand not every wording says
    "remove_house": "house",
    "add_trees": "trees",
    "remove_trees": "trees",
    "change_trees": "trees",
    "add_boat": "boat",
    "remove_boat": "boat",
    "recolor_sail": "boat",
    "add_lake": "water",
    "remove_lake": "water",
    "snow_on_mountains": "mountains",
    "remove_mountains": "mountains",
    "change_ground": "ground",
    "change_time": "time",
    "add_clouds": "clouds",
    "remove_sun": "sun or moon",
    "add_sun": "sun or moon",
}
"""The attribute that a kind of edit changes; what else changes with it is not asked for in every wording."""
PICTURES = ("original", "sparse", "dense", "fewer")

Row = dict[str, Any]


def read(row: Row, pictures: Path) -> Row:
    """The row of an edit by words with what its pictures show; others, and those made elsewhere, as they are.

    `rendered` is what is read off the suite's own picture of the edited scene. Raises InputError without a probe.
    """
    folder = pictures / row["kind"] / row["item"] / str(row["position"])
    if row["edit_prompt"] == row["prompt"] or not folder.is_dir():
        return row
    item, probe = demo_item(row["index"]), _probe()
    name = CHANGED[row["edit"]]
    place, options = list(ATTRIBUTES).index(name), ATTRIBUTES[name]
    truth = item.pictures().truth
    assert truth is not None  # the suite renders the edited scene of every edit
    shown = {who: load_image(folder / f"{who}.png") for who in PICTURES} | {"rendered": truth}
    values = probe.read(to_tensor(np.stack([_array(picture) for picture in shown.values()])))[:, place]
    found = {f"read_{who}": options[int(value)] for who, value in zip(shown, values, strict=True)}
    wanted = {"attribute": name, "wanted": attributes(item.edit.target)[name]}
    return row | wanted | found | {"probe": sampled_hash(probe)}


def _array(picture: Image.Image) -> Any:
    return np.asarray(picture.convert("RGB"))


@cache
def _probe() -> Probe:
    return load_probe()
