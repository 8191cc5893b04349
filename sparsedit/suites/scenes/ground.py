"""The land below the horizon: a line of far hills, then meadow, desert or snow up to the viewer's feet."""

from __future__ import annotations

import numpy as np

from sparsedit.suites.scenes.paint import Canvas, Layer, Plane, over
from sparsedit.suites.scenes.palette import GROUNDS, Colour
from sparsedit.suites.scenes.scene import HEIGHT
from sparsedit.suites.scenes.texture import line, texture


def paint_ground(canvas: Canvas) -> Colour:
    """Paint hills and ground; returns the colour of the near ground, from which banks are made."""
    scene = canvas.scene
    rng = canvas.rng(Layer.GROUND)
    tint = 1 + rng.normal(0, 0.03, 3).astype(np.float32)
    near, far = (shade * tint for shade in GROUNDS[scene.ground])
    hill_line, near_line = line(rng, scene.width), line(rng, scene.width)
    hills = near * (0.8 if scene.ground == "snow" else 0.62) * canvas.light
    cover = np.clip(canvas.rows - (scene.horizon - 7 - 6.5 * hill_line)[None] + 0.5, 0, 1)
    over(canvas.image, cover, hills * 0.72 + canvas.haze * 0.28)
    cover = np.clip(canvas.rows - (scene.horizon + 5 - 3.5 * near_line)[None] + 0.5, 0, 1)
    if canvas.flat:
        over(canvas.image, cover, (near * 0.6 + far * 0.4) * canvas.light)
    else:
        seen = slice(int(cover.any(axis=1).argmax()), HEIGHT)
        over(canvas.image[seen], cover[seen], _surface(canvas, near, far, rng, seen) * canvas.light)
    return near


def _surface(canvas: Canvas, near: Colour, far: Colour, rng: np.random.Generator, seen: slice) -> Plane:
    """Colours [rows, width, 3] of the ground's `seen` rows by day: texture that grows towards the viewer, dunes."""
    scene, rows = canvas.scene, canvas.rows[seen, :1]
    t = np.clip((rows - scene.horizon) / (HEIGHT - scene.horizon), 0, 1)
    fine = texture("grass", canvas.rng(Layer.GRASS), scene.width)[seen]
    broad = texture("soft", canvas.rng(Layer.DUNES), scene.width)[seen]
    strength = 0.055 if scene.ground == "meadow" else 0.03
    tone = far * (1 - t[..., None]) + near * t[..., None]
    relief = 1 + strength * fine * (0.5 + t) + 0.06 * broad - 0.10 * t
    tone = tone * relief[..., None]
    if scene.ground == "desert":
        phase = rows * 1.0 + line(rng, scene.width)[None] * 9 + canvas.columns[:1] * 0.12
        dunes = np.sin(phase * (0.34 - 0.16 * t) + broad * 0.6)
        tone = tone * (1 + 0.055 * dunes[..., None])
    return tone
