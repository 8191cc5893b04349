"""From a scene to one English line, in one of many wordings.

All wording is drawn up front and in one order, so the caption of an edited scene differs from its original's
in the edited words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsedit.suites.scenes.scene import House, Scene


@dataclass(frozen=True)
class _Wording:
    """The draws behind one caption: `chances` decide what is said, `picks` which of several words is used.

    `drop` is how likely a thing goes unsaid; 0 says everything.
    """

    chances: tuple[float, ...]
    picks: tuple[int, ...]
    drop: float

    def pick(self, index: int, *words: str) -> str:
        return words[self.picks[index] % len(words)]


def caption(scene: Scene, seed: int = 0, *, full: bool = False) -> str:
    """A description of a scene in the wording of a seed; `full` leaves nothing important out."""
    rng = np.random.default_rng([seed, 77])
    chances = tuple(rng.random() for _ in range(12))
    picks = tuple(int(rng.integers(1 << 20)) for _ in range(6))
    wording = _Wording(chances, picks, 0 if full else 0.12)
    subjects = _subjects(scene, wording)
    places = _places(scene, wording, alone=not subjects)
    text = _joined(subjects)
    if not subjects and not (places and places[0].startswith("a ")):
        text = wording.pick(0, "a landscape", "a view", "a scene")
    text = " ".join([text, *places]).strip()
    if chances[9] > wording.drop * 0.5:
        text += " " + _time_of_day(scene, wording)
    if sky := _sky(scene, wording):
        text += (" with " if chances[10] > 0.5 else ", ") + " and ".join(sky)
    if chances[11] < 0.12 and not full:
        text = wording.pick(1, "a photo of ", "a painting of ", "a picture of ") + text
    return text


def _subjects(scene: Scene, wording: _Wording) -> list[str]:
    said = []
    if scene.house is not None:
        said.append(_house(scene.house, wording))
    if scene.trees != "none" and wording.chances[2] > wording.drop:
        words = {
            "pine": ("pine trees", "pines"),
            "green": ("green trees", "leafy trees"),
            "autumn": ("autumn trees", "orange trees"),
        }
        said.append(wording.pick(1, *words[scene.trees]))
    if scene.boat is not None and wording.chances[3] > wording.drop * 0.5:
        said.append(f"a boat with a {scene.boat} sail")
    return said


def _house(house: House, wording: _Wording) -> str:
    text = f"a {house.wall} house"
    if wording.chances[0] > wording.drop + 0.08:
        text += f" with a {house.roof} roof"
    if wording.chances[1] > 0.45:
        words = {
            "left": (" on the left", " on the left side"),
            "center": (" in the center", " in the middle"),
            "right": (" on the right", " on the right side"),
        }
        text += wording.pick(0, *words[house.position])
    return text


def _places(scene: Scene, wording: _Wording, *, alone: bool) -> list[str]:
    """Water, ground and mountains; with nothing else in the picture the water itself is its subject."""
    chances, drop = wording.chances, wording.drop
    said = []
    if scene.water != "none" and chances[4] > drop * 0.6:
        said.append(("a " if alone else wording.pick(2, "by a ", "near a ")) + scene.water)
    if chances[5] > drop:
        words = {
            "meadow": ("in a green meadow", "in a meadow", "on a grass field"),
            "desert": ("in a desert", "in a sand desert"),
            "snow": ("in a snow field", "in the snow"),
        }
        said.append(wording.pick(3, *words[scene.ground]))
    if scene.mountains == "none":
        if chances[6] > 0.75:
            said.append("with hills")
    elif chances[6] > drop * 0.6:
        said.append(f"{wording.pick(4, 'under', 'below', 'with')} {scene.mountains} mountains")
    return said


def _time_of_day(scene: Scene, wording: _Wording) -> str:
    words = {
        "day": ("by day", "at noon", "on a sunny day"),
        "sunset": ("at sunset", "at dusk"),
        "night": ("at night",),
    }
    return wording.pick(5, *words[scene.time])


def _sky(scene: Scene, wording: _Wording) -> list[str]:
    said = []
    if scene.clouds and wording.chances[7] > wording.drop:
        said.append(wording.pick(5, "clouds", "a cloudy sky"))
    elif wording.chances[7] > 0.8:
        said.append("a clear sky")
    if scene.has_body and wording.chances[8] > wording.drop:
        said.append(f"the {scene.body}")
    return said


def _joined(subjects: Sequence[str]) -> str:
    if len(subjects) < 3:
        return " and ".join(subjects)
    return ", ".join(subjects[:-1]) + " and " + subjects[-1]
