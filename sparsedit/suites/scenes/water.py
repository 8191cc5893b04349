"""Lakes and rivers: a bank, and water that mirrors what is painted above the horizon."""

from __future__ import annotations

import numpy as np

from sparsedit.suites.scenes.paint import Canvas, Layer, Plane, over
from sparsedit.suites.scenes.palette import Colour, colour
from sparsedit.suites.scenes.scene import HEIGHT
from sparsedit.suites.scenes.texture import texture


def paint_water(canvas: Canvas, ground: Colour) -> None:
    """Paint the scene's water, if it has any; `ground` is the colour of the near ground around it."""
    scene = canvas.scene
    if scene.water == "none":
        return
    rng = canvas.rng(Layer.WATER)
    first = int(scene.horizon) + 2
    below = canvas.image[first:]
    depth = (_lake if scene.water == "lake" else _river)(canvas, first, rng)
    cover = np.clip(depth + 0.5, 0, 1)
    plain = canvas.middle * 0.55 + canvas.horizon * 0.2 + colour(40, 84, 120) * canvas.light * 0.35
    if canvas.flat:
        over(below, cover, plain)
        return
    bank = np.clip(depth + 4.5, 0, 1)
    over(below, bank * 0.55, (ground * 0.55 + colour(96, 80, 60) * 0.25) * canvas.light)
    over(below, cover, _reflection(canvas, first, plain, rng))


def _lake(canvas: Canvas, first: int, rng: np.random.Generator) -> Plane:
    """How many pixels a place lies inside the shore, negative outside, from row `first` down."""
    scene = canvas.scene
    ragged = texture("soft", rng, scene.width)[first:] * (0 if canvas.flat else 1)
    centre = scene.horizon + 34 + rng.uniform(-3, 3)
    radius_x, radius_y = rng.uniform(84, 112), rng.uniform(23, 28)
    rows, columns = canvas.rows[first:], canvas.columns[first:]
    inside = 1 - ((columns - scene.water_x) / radius_x) ** 2 - ((rows - centre) / radius_y) ** 2
    return (inside + 0.12 * ragged) * radius_y * 0.5


def _river(canvas: Canvas, first: int, rng: np.random.Generator) -> Plane:
    """As `_lake`, for a winding river that widens towards the viewer."""
    scene = canvas.scene
    ragged = texture("soft", rng, scene.width)[first:] * (0 if canvas.flat else 1)
    t = (canvas.rows[first:] - first) / (HEIGHT - first)
    bend = np.sin(t * 5.2 + rng.uniform(0, 6.28)) * (16 + 20 * t) * (1 - 0.45 * t)
    half_width = 5 + 40 * t**1.25
    return half_width - np.abs(canvas.columns[first:] - (scene.water_x + bend)) + 1.5 * ragged


def _reflection(canvas: Canvas, first: int, plain: Plane, rng: np.random.Generator) -> Plane:
    """Colours [rows, width, 3] of the surface: the picture turned over at the horizon, shaken by waves."""
    width, horizon = canvas.scene.width, canvas.scene.horizon
    mirrored = horizon - 4 - (np.arange(first, HEIGHT) - horizon) * 1.15
    rows = np.clip(mirrored, 0, HEIGHT - 1).astype(int)
    waves = texture("wave", rng, width)[first:]
    columns = np.clip(np.arange(width)[None] + (waves * 2.2).astype(int), 0, width - 1)
    image = canvas.image[rows[:, None], columns]
    murk = np.clip((canvas.rows[first:] - first) / 90, 0, 1)[..., None]
    tone = image * (0.66 - 0.25 * murk) + plain * (0.34 + 0.25 * murk)
    return np.asarray(tone * (1 + 0.05 * waves[..., None]))
