"""The mountains on the horizon: peaks with a lit and a shaded flank, snow, and haze at their feet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsedit.suites.scenes.paint import Canvas, Layer, Plane, over, smoothstep
from sparsedit.suites.scenes.palette import ROCKS, Colour, colour
from sparsedit.suites.scenes.scene import BASE_WIDTH
from sparsedit.suites.scenes.texture import line, texture

# A flank flattens with its distance from the peak; further out than this the formula would rise again.
_FLANK_REACH = 277


@dataclass(frozen=True)
class _Peak:
    """One peak on the rows above the horizon: `depth` is rows below its top, [rows, 1]; `box` holds what it covers."""

    x: float
    height: float
    rock: Colour
    depth: Plane
    box: tuple[slice, slice]


def paint_mountains(canvas: Canvas) -> None:
    """Paint the scene's range, if it has one: three or four peaks per 256 px, the highest first."""
    scene = canvas.scene
    if scene.mountains == "none":
        return
    rng = canvas.rng(Layer.MOUNTAINS)
    rock = ROCKS[int(rng.integers(len(ROCKS)))]
    count = round(int(rng.integers(3, 5)) * scene.width / BASE_WIDTH)
    xs = (np.arange(count) + 0.5) * (scene.width / count) + rng.uniform(-22, 22, count)
    heights = rng.uniform(46, 84, count)
    heights[int(rng.integers(count))] += 16
    last = int(scene.horizon) + 2
    rows, columns = canvas.rows[:last, :1], canvas.columns[:1]
    rough = texture("rock", canvas.rng(Layer.ROCK), scene.width)[:last]
    smooth = texture("soft", canvas.rng(Layer.RIDGE), scene.width)[:last]
    for index in np.argsort(-heights):
        x, height = xs[index], heights[index]
        slope = rng.uniform(0.72, 1.1)
        crest = line(rng, scene.width, "rock") * (0.0 if canvas.flat else 2.2) + line(rng, scene.width) * 2.5
        away = np.minimum(np.abs(columns - x), _FLANK_REACH)
        profile = height - slope * away * (1 - 0.0018 * away) + crest[None]
        cover = np.clip((profile - (scene.horizon - rows)) * 0.8 + 0.5, 0, 1)
        if not cover.any():
            continue
        box = _box(cover)
        peak = _Peak(x, height, rock * rng.uniform(0.92, 1.08), rows - (scene.horizon - height), box)
        haze: Plane | float = 0.25
        if canvas.flat:
            tone = _sketch(canvas, peak)
        else:
            tone = _relief(canvas, peak, rng, rough[box], smooth[box])
            haze = (0.16 + 0.44 * smoothstep(peak.depth[box[0]], height * 0.35, height))[..., None]
        over(canvas.image[box], cover[box], tone * (1 - haze) + canvas.haze * haze)


def _box(cover: Plane) -> tuple[slice, slice]:
    """Rows and columns that a peak covers."""
    found = (np.flatnonzero(cover.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(int(at[0]), int(at[-1]) + 1) for at in found)
    return rows, columns


def _sketch(canvas: Canvas, peak: _Peak) -> Plane:
    """Colours [rows, columns, 3] of a peak's box as a stroke: plain rock, the upper part white when it is snowy."""
    rows, columns = peak.box
    depth = peak.depth[rows]
    shape = (len(depth), columns.stop - columns.start)
    tone = np.broadcast_to(peak.rock * canvas.light * 0.9, (*shape, 3)).copy()
    if canvas.scene.mountains == "snowy":
        snow = (depth < peak.height * 0.45).astype(np.float32)
        over(tone, np.broadcast_to(snow, shape), colour(236, 242, 250) * canvas.light)
    return tone


def _relief(canvas: Canvas, peak: _Peak, rng: np.random.Generator, rough: Plane, smooth: Plane) -> Plane:
    """Colours [rows, columns, 3] of a peak's box: a spine parts light from shade, snow lies above a ragged line."""
    rows, columns = peak.box
    spine = (peak.x + line(rng, len(peak.depth))[:, None] * (2 + peak.depth * 0.10))[rows]
    facing = 1 if canvas.sun_left else -1
    shade = smoothstep((canvas.columns[:1, columns] - spine) * facing + rough * 5 + smooth * 4, -3.5, 3.5)
    tone: Plane = peak.rock * (1.16 - 0.46 * shade + 0.085 * rough)[..., None]
    if canvas.scene.mountains == "snowy":
        crest = line(rng, canvas.scene.width, "rock")[None, columns]
        above = peak.height * 0.50 - peak.depth[rows] + rough * 7 + smooth * 5 + crest * 5
        snow = smoothstep(above, -2.5, 2.5)[..., None]
        white = colour(246, 249, 254) * (1 - shade[..., None]) + colour(164, 184, 220) * shade[..., None]
        white = white + 0.018 * rough[..., None]
        tone = tone * (1 - snow) + white * snow
    return tone * canvas.light
