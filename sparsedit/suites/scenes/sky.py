"""The sky: its gradient, stars, sun or moon, clouds."""

from __future__ import annotations

import numpy as np

from sparsedit.suites.scenes.paint import Canvas, Layer, over, smoothstep
from sparsedit.suites.scenes.palette import SKIES, colour
from sparsedit.suites.scenes.scene import HEIGHT
from sparsedit.suites.scenes.texture import texture

# No part of the sky is painted below this row: hills and ground cover it.
_SKY_ROWS = 160
_STARS = 26


def paint_sky(canvas: Canvas) -> None:
    """Cover the whole canvas with sky, then add what the scene has in it."""
    _paint_gradient(canvas)
    scene = canvas.scene
    if scene.time == "night" and not canvas.flat:
        _paint_stars(canvas)
    if scene.has_body:
        _paint_body(canvas)
    if scene.clouds:
        _paint_clouds(canvas)


def _paint_gradient(canvas: Canvas) -> None:
    top, middle, horizon = canvas.top, canvas.middle, canvas.horizon
    t = np.clip(canvas.rows[:, :1] / canvas.scene.horizon, 0, 1)[..., None]
    if canvas.flat:
        gradient = np.where(t < 0.5, (top + middle) / 2, (middle + horizon) / 2)
    else:
        upper = top + (middle - top) * (t / 0.55)
        lower = middle + (horizon - middle) * ((t - 0.55) / 0.45)
        gradient = np.where(t < 0.55, upper, lower)
    canvas.image[:] = np.repeat(gradient, canvas.scene.width, axis=1)


def _paint_stars(canvas: Canvas) -> None:
    rng = canvas.rng(Layer.STARS)
    for _ in range(_STARS * canvas.scene.width // HEIGHT):
        y = rng.uniform(2, canvas.scene.horizon - 10)
        x = rng.uniform(2, canvas.scene.width - 3)
        brightness = rng.uniform(0.35, 0.9)
        patch = canvas.patch(x - 2, y - 2, x + 2, y + 2)
        distance2 = (patch.rows - y) ** 2 + (patch.columns - x) ** 2
        over(patch.image, brightness * np.exp(-distance2 / 1.1), colour(235, 238, 255))


def _paint_body(canvas: Canvas) -> None:
    scene, sky = canvas.scene, canvas.image[:_SKY_ROWS]
    disc = SKIES[scene.time].disc
    distance = np.sqrt((canvas.columns - scene.body_x) ** 2 + (canvas.rows - scene.body_y) ** 2)[:_SKY_ROWS]
    radius, reach = (18.0, 48.0) if scene.time == "sunset" else (15.0, 34.0)
    if not canvas.flat:
        glow = 0.3 if scene.time == "night" else 0.55
        over(sky, glow * np.exp(-distance / reach), disc)
    cover = np.clip(radius - distance + 0.5, 0, 1)
    over(sky, cover, disc)
    if scene.time == "night" and not canvas.flat:
        craters = smoothstep(texture("soft", canvas.rng(Layer.MOON), scene.width), 0.3, 1.2)
        over(sky, cover * craters[:_SKY_ROWS] * 0.3, colour(170, 170, 170))


def _paint_clouds(canvas: Canvas) -> None:
    scene, sky = canvas.scene, canvas.image[:_SKY_ROWS]
    lit = SKIES[scene.time].cloud
    noise = texture("cloud", canvas.rng(Layer.CLOUDS), scene.width)[:_SKY_ROWS]
    rows = canvas.rows[:_SKY_ROWS, :1]
    fade = smoothstep(rows, 0, 14) * (1 - smoothstep(rows, scene.horizon - 30, scene.horizon)) * 0.9
    if canvas.flat:
        over(sky, (noise > 0.75) * 0.8 * (fade > 0.3), lit)
        return
    # Light falls from above: a cloud is brighter where there is less of it a few rows up.
    shade = np.clip((np.roll(noise, -5, 0) - noise) * 0.5 + 0.55, 0, 1)[..., None]
    cover = smoothstep(noise, 0.25, 1.5) * fade
    over(sky, cover, lit * (0.78 + 0.25 * shade) * 0.96 + canvas.horizon * 0.04)
