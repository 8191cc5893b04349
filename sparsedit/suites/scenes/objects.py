"""What stands in a landscape: houses, trees, boats. Each is painted at its place in full or as a sketch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsedit.suites.scenes.paint import Canvas, Patch, Plane, over, rectangle, smoothstep
from sparsedit.suites.scenes.palette import AUTUMN, PAINTS, Colour, colour
from sparsedit.suites.scenes.scene import House, TreeSpot
from sparsedit.suites.scenes.texture import texture

_SNOW = colour(240, 245, 250)


def tree_foot(canvas: Canvas, spot: TreeSpot) -> float:
    """The row on which a tree stands."""
    return canvas.scene.horizon + 14 + spot.depth * 92


def paint_tree(canvas: Canvas, spot: TreeSpot) -> None:
    """Paint one tree of the scene's kind at a spot."""
    x, foot = spot.x, tree_foot(canvas, spot)
    height = (30 + 44 * spot.depth) * spot.scale
    pine = canvas.scene.trees == "pine"
    if not canvas.flat:
        _paint_shadow(canvas, x, foot, height * 0.34, height * 0.08, 0.32)
    half = height * (0.24 if pine else 0.34)
    patch = canvas.patch(x - half - 4, foot - height - 3, x + half + 4, foot + 2)
    if 0 in patch.rows.shape:
        return
    rng = np.random.default_rng([spot.seed, 3])
    noise = texture("rock", rng)[: patch.rows.shape[0], : patch.rows.shape[1]]
    trunk = np.clip(height * 0.035 + 0.8 - np.abs(patch.columns - x) + 0.5, 0, 1)
    trunk = trunk * (patch.rows > foot - height * 0.4) * (patch.rows < foot)
    over(patch.image, trunk, colour(92, 64, 44) * canvas.light)
    if pine:
        _paint_needles(canvas, patch, x, foot - height, half, height, noise)
    else:
        _paint_crown(canvas, patch, x, foot - height * 0.64, half, height, noise, rng)


def _paint_needles(
    canvas: Canvas, patch: Patch, x: float, top: float, half: float, height: float, noise: Plane
) -> None:
    """Four tiers of branches, lit from the sun's side, with snow on them in a snow field."""
    away = np.abs(patch.columns - x)
    u = (patch.rows - top) / (height * 0.88)
    if canvas.flat:
        cover = np.clip(half * u - away, 0, 1) * (u < 1) * (u > 0)
        over(patch.image, cover, colour(48, 92, 62) * canvas.light)
        return
    tier = (u * 4.0) % 1
    reach = half * (u * 0.72 + 0.30 * tier * (0.25 + u)) + noise * 1.1
    cover = np.clip(reach - away + 0.3, 0, 1) * np.clip((1 - u) * height * 0.88 + 0.5, 0, 1) * (u > 0)
    facing = 1 if canvas.sun_left else -1
    shade = 0.34 * smoothstep((patch.columns - x) * facing / half, -0.5, 0.6)
    under = 0.30 * (1 - smoothstep(tier, 0, 0.45)) * (u > 0.2)
    tone = colour(56, 108, 66) * (1.02 - shade - under + 0.10 * noise)[..., None]
    if canvas.scene.ground == "snow":
        snow = smoothstep(tier, 0.45, 0.8) * 0.85 * smoothstep(noise, -1.2, 0.4)
        over(tone, snow, colour(238, 244, 250))
    over(patch.image, cover, tone * canvas.light)


def _paint_crown(
    canvas: Canvas,
    patch: Patch,
    x: float,
    centre: float,
    half: float,
    height: float,
    noise: Plane,
    rng: np.random.Generator,
) -> None:
    """A round crown of five overlapping balls; an autumn tree is one of three colours."""
    green = canvas.scene.trees == "green"
    leaves = colour(84, 146, 58) if green else AUTUMN[int(rng.integers(len(AUTUMN)))]
    dx, dy = patch.columns - x, patch.rows - centre
    if canvas.flat:
        distance = np.sqrt((dx / half) ** 2 + (dy / (height * 0.36)) ** 2)
        over(patch.image, np.clip((1 - distance) * half, 0, 1), leaves * canvas.light)
        return
    inside = np.full(patch.rows.shape, -9.0, np.float32)
    for index in range(5):
        angle = index * 1.2566 + rng.uniform(-0.3, 0.3)
        ball_x, ball_y = np.cos(angle) * half * 0.46, np.sin(angle) * height * 0.16
        radius = half * rng.uniform(0.48, 0.6)
        inside = np.maximum(inside, radius - np.sqrt((dx - ball_x) ** 2 + (dy - ball_y) ** 2))
    facing = 1 if canvas.sun_left else -1
    lit = np.clip((-dx * facing / half) * 0.6 - dy / (height * 0.36) * 0.8, -1, 1)
    tone = leaves * (1.0 + 0.26 * lit + 0.11 * noise)[..., None]
    over(patch.image, np.clip(inside + noise * 1.3 + 0.5, 0, 1), tone * canvas.light)


def paint_house(canvas: Canvas, house: House) -> None:
    """Paint a house: a gabled front, a side wall under the roof, a chimney, a door and two windows."""
    x, y, width = house.x, house.y, house.width
    wall_height = width * 0.44
    patch = canvas.patch(x - width / 2 - 10, y - wall_height - width * 0.50, x + width / 2 + 10, y + 3)
    if not canvas.flat:
        _paint_shadow(canvas, x, y, width * 0.62, 8, 0.35)
    _HousePainter(canvas, house, replace(patch, mirror_x=x if house.flip else None)).paint()


class _HousePainter:
    """The corners of one house, its front on the left; the patch mirrors it when it is flipped."""

    def __init__(self, canvas: Canvas, house: House, patch: Patch) -> None:
        self.canvas, self.patch = canvas, patch
        self.wall, self.roof = PAINTS[house.wall], PAINTS[house.roof]
        self.light = canvas.light * 1.0 + (0.06 if canvas.scene.time == "night" else 0)
        self.width, self.base = house.width, house.y
        self.wall_height = house.width * 0.44
        self.front = house.width * 0.40
        self.left, self.right = house.x - house.width / 2, house.x + house.width / 2
        self.eaves = house.y - self.wall_height
        self.ridge = house.y - self.wall_height - self.front * 0.72
        self.middle = self.left + self.front / 2

    def paint(self) -> None:
        self._paint_walls()
        self._paint_roof()
        if not self.canvas.flat:
            self._paint_trim()
        self._paint_openings()

    def _lit(self, paint: Colour, tone: float) -> Plane:
        """A paint in this light; a sketch keeps only a third of the contrast between the faces."""
        return paint * (tone * 0.3 + 0.66 if self.canvas.flat else tone) * self.light

    def _paint_walls(self) -> None:
        inner = self.left + self.front
        self.patch.fill(rectangle(inner, self.base, self.right, self.eaves), self._lit(self.wall, 0.80))
        self.patch.fill(rectangle(self.left, self.base, inner, self.eaves), self._lit(self.wall, 1.04))
        gable = [(self.left, self.eaves + 0.5), (inner, self.eaves + 0.5), (self.middle, self.ridge)]
        self.patch.fill(gable, self._lit(self.wall, 1.04))

    def _paint_roof(self) -> None:
        overhang = self.width * 0.045
        eaves = self.eaves + overhang * 1.4
        slope = [
            (self.left + self.front - overhang * 0.3, eaves),
            (self.right + overhang, eaves),
            (self.right - self.front * 0.42, self.ridge - 1),
            (self.middle, self.ridge - 1),
        ]
        self.patch.fill(slope, self._lit(self.roof, 0.95))

    def _paint_trim(self) -> None:
        """Snow on the roof, the two edges of the gable, the chimney."""
        overhang = thickness = self.width * 0.045
        front, middle, ridge, right = self.front, self.middle, self.ridge, self.right
        if self.canvas.scene.ground == "snow":
            snow = [
                (middle + front * 0.25, ridge + front * 0.36),
                (right - front * 0.10, ridge + front * 0.36),
                (right - front * 0.42, ridge - 1),
                (middle, ridge - 1),
            ]
            self.patch.fill(snow, _SNOW * self.light, opacity=0.85)
        edge = self._lit(self.roof, 0.72)
        peak = [(middle, ridge - thickness), (middle, ridge + thickness * 0.6)]
        near = self.eaves + overhang
        self.patch.fill([(self.left - overhang, near), (self.left - overhang, near - thickness * 1.2), *peak], edge)
        far = self.left + front
        far_edge = [(far + overhang * 0.4, self.eaves + overhang * 1.4), (far + overhang * 0.8, self.eaves)]
        self.patch.fill([*peak, *far_edge], edge)
        flue, top = right - front * 0.9, ridge - self.width * 0.13
        chimney = [
            (flue, ridge + 4),
            (flue, top),
            (flue + self.width * 0.08, top),
            (flue + self.width * 0.08, ridge + 4),
        ]
        self.patch.fill(chimney, self._lit(colour(150, 96, 80), 0.9))

    def _paint_openings(self) -> None:
        half, height = self.width * 0.12 / 2, self.wall_height * 0.62
        door = rectangle(self.middle - half, self.base, self.middle + half, self.base - height)
        self.patch.fill(door, self._lit(colour(96, 62, 40), 0.9))
        night = self.canvas.scene.time == "night"
        pane = colour(255, 214, 110) if night else colour(70, 88, 116) * self.light
        half, height = self.width * 0.07, self.wall_height * 0.17
        sill = self.base - self.wall_height * 0.5
        for place in (0.26, 0.68):
            x = self.left + self.front + (self.width - self.front) * place
            left, right, bottom, top = x - half, x + half, sill + height, sill - height
            if not self.canvas.flat:
                frame = rectangle(left - 1.5, bottom + 1.5, right + 1.5, top - 1.5)
                self.patch.fill(frame, self._lit(colour(240, 236, 226), 0.85))
            self.patch.fill(rectangle(left, bottom, right, top), pane)


def paint_boat(canvas: Canvas, sail: str) -> None:
    """Paint the scene's boat with a sail of the named colour, a little below the horizon."""
    x, y, light = canvas.scene.boat_x, canvas.scene.horizon + 40, canvas.light
    patch = canvas.patch(x - 26, y - 44, x + 26, y + 12)
    if not canvas.flat:
        mirrored = [(x - 18, y + 5), (x + 18, y + 5), (x + 8, y + 11), (x - 8, y + 11)]
        patch.fill(mirrored, colour(30, 40, 60) * light, opacity=0.35)
    hull = [(x - 21, y - 3), (x + 21, y - 3), (x + 14, y + 6), (x - 14, y + 6)]
    patch.fill(hull, colour(112, 70, 44) * light)
    patch.fill(rectangle(x - 1, y - 3, x + 1, y - 42), colour(70, 48, 36) * light)
    patch.fill([(x + 2, y - 6), (x + 20, y - 6), (x + 2, y - 41)], PAINTS[sail] * light)
    shade = 0.95 if canvas.flat else 0.82
    patch.fill([(x - 2, y - 6), (x - 15, y - 6), (x - 2, y - 36)], PAINTS[sail] * light * shade)


def _paint_shadow(canvas: Canvas, x: float, y: float, rx: float, ry: float, strength: float) -> None:
    patch = canvas.patch(x - rx, y - ry, x + rx, y + ry)
    outside = ((patch.columns - x) / rx) ** 2 + ((patch.rows - y) / ry) ** 2
    darkness = strength * smoothstep(1 - outside, 0, 0.7)
    patch.image[:] *= (1 - darkness)[..., None]
