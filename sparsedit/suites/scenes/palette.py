"""The colours of the landscapes, as float32 RGB in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Colour = npt.NDArray[np.float32]


def colour(red: int, green: int, blue: int) -> Colour:
    """Bytes of red, green and blue as a float32 colour in [0, 1]."""
    return np.array((red, green, blue), np.float32) / np.float32(255)


@dataclass(frozen=True)
class SkyColours:
    """A time of day: three heights of the sky, the light on things, the disc of sun or moon, lit clouds."""

    top: Colour
    middle: Colour
    horizon: Colour
    light: Colour
    disc: Colour
    cloud: Colour


SKIES = {
    "day": SkyColours(
        top=colour(62, 122, 204),
        middle=colour(128, 178, 228),
        horizon=colour(205, 228, 240),
        light=colour(255, 255, 250),
        disc=colour(255, 246, 200),
        cloud=colour(250, 252, 255),
    ),
    "sunset": SkyColours(
        top=colour(74, 62, 120),
        middle=colour(206, 106, 98),
        horizon=colour(255, 190, 104),
        light=colour(255, 196, 158),
        disc=colour(255, 236, 170),
        cloud=colour(255, 170, 130),
    ),
    "night": SkyColours(
        top=colour(9, 13, 40),
        middle=colour(20, 30, 72),
        horizon=colour(48, 66, 116),
        light=colour(112, 126, 180),
        disc=colour(240, 240, 225),
        cloud=colour(62, 74, 112),
    ),
}

# near, far
GROUNDS = {
    "meadow": (colour(104, 158, 62), colour(148, 184, 92)),
    "desert": (colour(214, 170, 104), colour(232, 200, 142)),
    "snow": (colour(226, 234, 244), colour(240, 245, 250)),
}

ROCKS = (colour(112, 108, 122), colour(120, 100, 88), colour(96, 104, 120))

PAINTS = {
    "red": colour(196, 52, 44),
    "blue": colour(58, 98, 184),
    "white": colour(238, 234, 224),
    "yellow": colour(234, 196, 74),
    "brown": colour(128, 84, 54),
    "green": colour(74, 140, 84),
    "orange": colour(230, 132, 48),
    "gray": colour(128, 130, 138),
    "pink": colour(236, 150, 170),
    "purple": colour(128, 82, 160),
    "black": colour(48, 46, 52),
}
WALLS = ("white", "red", "blue", "yellow", "pink", "gray", "green", "brown")
ROOFS = ("red", "brown", "blue", "gray", "black", "orange", "green", "purple")
SAILS = ("white", "red", "yellow", "blue")

AUTUMN = (colour(222, 124, 40), colour(206, 82, 44), colour(228, 164, 52))
