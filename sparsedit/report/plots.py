"""The page's plots: what speed costs in fidelity, what an edit's size costs in speed, and both for each type of edit.

Drawn by matplotlib as SVG that takes its colours of ink from the page, so that it is read in light and in dark; every
point leads to its edit.
"""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsedit.report.numbers import figure
from sparsedit.report.summary import Row
from sparsedit.report.text import printable

# Legible on white and on black; the types of edits take them in order.
COLOURS = ("#0b8a76", "#d1662b", "#7a5bc7", "#c2467e", "#3f7fc4", "#8f8b24", "#a0703c", "#6b7684", "#2f9e44", "#c99700")

INK = "#010203"
"""Stands for the page's own."""

_WIDTH, _HEIGHT, _LEGEND_LINE = 5.2, 3.1, 0.2
"""In inches of 72 points, a point being a pixel or a little more on the page."""
_LONGEST_KIND = 28
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Plot:
    """A plot with its title; `svg` is markup of our own making."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class _Point:
    """A row at its place on the page."""

    place: int
    row: Row

    @property
    def kind(self) -> str:
        return printable(self.row.edit_type or "edit")[:_LONGEST_KIND]


@dataclass(frozen=True)
class _Axis:
    """A quantity of a row, with what is written along its axis."""

    label: str
    of: Callable[[Row], float | None]
    logarithmic: bool = False


_SPEEDUP = _Axis("speed-up of the n-th edit", lambda row: row.speedup)
_PSNR = _Axis("PSNR inside, dB", lambda row: row.inside_psnr)
_EDITED = _Axis("edited, % of the pixels", lambda row: 100 * row.edit_ratio if row.edit_ratio else None, True)


def plots(rows: Sequence[Row]) -> list[Plot]:
    """The plots of a run's rows, numbered from 1 as on the page; those without two points are left out."""
    points = [_Point(place, row) for place, row in enumerate(rows, 1) if row.thin]
    kinds = dict.fromkeys(point.kind for point in points)
    colours = {kind: COLOURS[place % len(COLOURS)] for place, kind in enumerate(kinds)}
    made = [
        _scatter("Fidelity against speed-up", points, colours, _SPEEDUP, _PSNR),
        _scatter("Speed-up against size of the edit", points, colours, _EDITED, _SPEEDUP),
        _by_type("Fidelity by type of edit", points, colours, _PSNR),
        _by_type("Speed-up by type of edit", points, colours, _SPEEDUP),
    ]
    return [plot for plot in made if plot]


def _scatter(title: str, points: Sequence[_Point], colours: dict[str, str], x: _Axis, y: _Axis) -> Plot | None:
    known = [(point, across, up) for point in points if (across := x.of(point.row)) and (up := y.of(point.row))]
    if len(known) < 2:
        return None

    def draw(axes: Axes) -> None:
        for kind, colour in colours.items():
            own = [one for one in known if one[0].kind == kind]
            if own:
                places, across, up = zip(*own, strict=True)
                dots = axes.scatter(across, up, s=26, color=colour, alpha=0.8, linewidths=0, label=kind)
                dots.set_urls([f"#edit-{point.place}" for point in places])
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        if x.logarithmic:
            log_axis(axes)

    return Plot(title, svg(title, draw))


def _by_type(title: str, points: Sequence[_Point], colours: dict[str, str], of: _Axis) -> Plot | None:
    """A bar for each type: the mean of its edits that have the value."""
    known = {
        kind: [value for point in points if point.kind == kind and (value := of.of(point.row))] for kind in colours
    }
    means = {kind: statistics.fmean(own) for kind, own in known.items() if own}
    if len(means) < 2:
        return None

    def draw(axes: Axes) -> None:
        kinds = list(means)[::-1]
        bars = axes.barh(kinds, [means[kind] for kind in kinds], color=[colours[kind] for kind in kinds], height=0.6)
        axes.bar_label(bars, [figure(means[kind]) for kind in kinds], padding=3, color=INK)
        axes.margins(x=0.15)
        axes.set_xlabel(f"mean {of.label}")

    return Plot(title, svg(title, draw))


def log_axis(axes: Axes) -> None:
    """Make the axis across logarithmic, with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}".lstrip("0.")[:1] in ("2", "5") else "")


def svg(title: str, draw: Callable[[Axes], None]) -> Markup:
    """What `draw` puts on axes, as part of a page, over a legend where it names several things.

    `title` is its name, of our own making.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}), warnings.catch_warnings():
        # A browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        drawing = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = drawing.add_subplot()
        draw(axes)
        axes.grid(color=INK, alpha=0.12)
        axes.set_axisbelow(True)
        if (named := len(axes.get_legend_handles_labels()[1])) > 1:
            drawing.set_figheight(_HEIGHT + _LEGEND_LINE * math.ceil(named / 2))
            drawing.legend(frameon=False, fontsize=9.5, loc="outside lower center", ncols=2)
        stream = io.StringIO()
        drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue().replace(INK, "currentColor"), title)


def _inline(document: str, title: str) -> Markup:
    """An SVG document as part of a page: the element alone, as wide as its place, with a name."""
    head, _, rest = document[document.index("<svg") :].partition(">")
    [box] = re.findall(r'viewBox="[^"]*"', head)
    body = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    return Markup(f'<svg role="img" aria-label="{title}" {box}>{body}')
