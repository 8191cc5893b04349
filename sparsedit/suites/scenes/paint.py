"""Painting on a float picture: the canvas, soft polygons, blending. Knows colours and pixels, no objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsedit.suites.scenes.palette import SKIES, Colour
from sparsedit.suites.scenes.scene import HEIGHT, Scene

# Some layers are computed in float32, some in float64; the picture itself is float32.
Plane = npt.NDArray[np.floating[Any]]
Point = tuple[float, float]


class Layer(IntEnum):
    """Each layer draws from a random stream of its own, so an edit of one leaves the others as they were."""

    PALETTE = 1
    STARS = 2
    CLOUDS = 3
    MOUNTAINS = 4
    GROUND = 5
    WATER = 6
    GRAIN = 9
    MOON = 21
    ROCK = 41
    RIDGE = 42
    GRASS = 51
    DUNES = 52


@cache
def _grid(width: int) -> tuple[Plane, Plane]:
    """Row and column numbers, each float32 [HEIGHT, width]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:width].astype(np.float32)
    return rows, columns


@dataclass(frozen=True)
class Canvas:
    """A picture being painted: `image` float32 [HEIGHT, width, 3] in [0, 1], and what every layer asks for.

    `flat` paints the stroke sketch of the scene: the same shapes in plain colours, no texture, no shadow.
    """

    scene: Scene
    flat: bool
    image: npt.NDArray[np.float32]
    rows: Plane
    columns: Plane
    top: Colour
    middle: Colour
    horizon: Colour
    light: Colour

    @classmethod
    def blank(cls, scene: Scene, flat: bool) -> Canvas:
        """An empty canvas with the palette of the scene's time of day, slightly varied by its seed."""
        rows, columns = _grid(scene.width)
        sky = SKIES[scene.time]
        rng = np.random.default_rng([scene.seed, Layer.PALETTE])
        tint = 1 + rng.normal(0, 0.035, 3).astype(np.float32)
        return cls(
            scene=scene,
            flat=flat,
            image=np.zeros((HEIGHT, scene.width, 3), np.float32),
            rows=rows,
            columns=columns,
            top=sky.top * tint,
            middle=sky.middle * tint,
            horizon=sky.horizon * tint,
            light=sky.light,
        )

    @property
    def haze(self) -> Plane:
        """The colour that far things fade to."""
        return self.horizon * 0.75 + self.middle * 0.25

    @property
    def sun_left(self) -> bool:
        """Whether light falls from the left."""
        return self.scene.body_x < self.scene.width / 2

    def rng(self, layer: Layer) -> np.random.Generator:
        """The random stream of a layer, from its beginning."""
        return np.random.default_rng([self.scene.seed, layer])

    def patch(self, left: float, top: float, right: float, bottom: float) -> Patch:
        """The part of the canvas inside a box in pixels, cut to the picture; it may be empty."""
        ys = slice(max(0, int(top)), min(HEIGHT, int(bottom) + 1))
        xs = slice(max(0, int(left)), min(self.scene.width, int(right) + 1))
        return Patch(self.image[ys, xs], self.rows[ys, xs], self.columns[ys, xs])


@dataclass(frozen=True)
class Patch:
    """A view of a canvas with its row and column numbers; `mirror_x` flips polygons about that column."""

    image: Plane
    rows: Plane
    columns: Plane
    mirror_x: float | None = None

    def fill(self, points: Sequence[Point], colour: Plane, opacity: float = 1.0) -> None:
        """Paint a convex polygon (x, y) in one colour, with a soft edge one pixel wide."""
        if self.mirror_x is not None:
            points = [(2 * self.mirror_x - x, y) for x, y in points]
        over(self.image, polygon(points, self.rows, self.columns) * opacity, colour)


def over(image: Plane, alpha: Plane, colour: Plane) -> None:
    """Blend in place: image [H, W, 3] towards colour [H, W, 3] or [3] by alpha [H, W]."""
    covered = np.flatnonzero(alpha.any(axis=1))
    if not covered.size:
        return
    rows = slice(covered[0], covered[-1] + 1)
    some = alpha[rows]
    # A channel at a time: numpy is slow where the innermost of its loops is only three long.
    for channel in range(3):
        part = image[rows, :, channel]
        part += some * ((colour[rows, :, channel] if colour.ndim == 3 else colour[channel]) - part)


def smoothstep(x: Plane | float, low: float | Plane, high: float | Plane) -> Plane:
    """0 below `low`, 1 above `high`, a smooth cubic between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def polygon(points: Sequence[Point], rows: Plane, columns: Plane) -> Plane:
    """Coverage in [0, 1] of a convex polygon, given in either orientation, at the given pixels."""
    corners = np.asarray(points, np.float32)
    following = np.roll(corners, -1, 0)
    area = (corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum()
    sign = 1.0 if area > 0 else -1.0
    inside = np.full(rows.shape, np.inf, np.float32)
    for (ax, ay), (bx, by) in zip(corners, following, strict=True):
        ex, ey = bx - ax, by - ay
        scale = sign / (np.hypot(ex, ey) + 1e-6)
        inside = np.minimum(inside, (ex * scale) * (rows - ay) - (ey * scale) * (columns - ax))
    return np.clip(inside + 0.5, 0, 1)


def rectangle(left: float, bottom: float, right: float, top: float) -> list[Point]:
    """The corners of an upright rectangle."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]
