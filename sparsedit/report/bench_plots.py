"""A bench's plots: what each way's speed costs in fidelity, edit by edit, and how that differs between types."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from sparsedit.records import Record
from sparsedit.report.bench import values
from sparsedit.report.plots import COLOURS, INK, Plot, log_axis, svg
from sparsedit.report.text import printable

_AXES = {
    "speedup": "times as fast as dense, n-th edit",
    "macs_ratio": "times fewer multiply-adds than dense",
    "inside_psnr": "PSNR inside, dB",
}

Points = Mapping[str, Sequence[Mapping[str, float | None]]]


def bench_plots(records: Sequence[Record]) -> list[Plot]:
    """The plots of every way but dense; those without two edits are left out."""
    ways: dict[str, list[Record]] = {}
    for record in records:
        bench = record["bench"]
        if record["status"] == "ok" and bench["way"] != "dense":
            ways.setdefault(printable(" ".join(filter(None, (bench["cell"], bench["way"])))), []).append(record)
    points = {way: [values(record) for record in own] for way, own in ways.items()}
    types = {way: [str(record.get("edit_type") or "edit") for record in own] for way, own in ways.items()}
    made = [
        _scatter("Fidelity against speed-up", points, "speedup"),
        _scatter("Fidelity against multiply-adds", points, "macs_ratio"),
        _by_type("Fidelity by type of edit", points, types, "inside_psnr"),
        _by_type("Speed-up by type of edit", points, types, "speedup"),
    ]
    return [plot for plot in made if plot]


def _scatter(title: str, points: Points, across: str) -> Plot | None:
    """A dot for each edit, and each way's means as a ring."""
    known = {
        way: [(x, y) for each in own if (x := each[across]) and (y := each["inside_psnr"])]
        for way, own in points.items()
    }
    if sum(map(len, known.values())) < 2:
        return None

    def draw(axes: Axes) -> None:
        for (way, pairs), colour in zip(known.items(), COLOURS, strict=False):
            if pairs:
                x, y = zip(*pairs, strict=True)
                axes.scatter(x, y, s=14, color=colour, alpha=0.6, linewidths=0)
                mean = statistics.fmean(x), statistics.fmean(y)
                axes.scatter(*mean, s=70, color=colour, edgecolors=INK, linewidths=1.2, label=way)
        log_axis(axes)
        axes.set_xlabel(_AXES[across])
        axes.set_ylabel(_AXES["inside_psnr"])

    return Plot(title, svg(title, draw))


def _by_type(title: str, points: Points, types: Mapping[str, Sequence[str]], name: str) -> Plot | None:
    """For each type of edit a group of bars: the means of the ways."""
    kinds = sorted({printable(kind) for own in types.values() for kind in own})
    means = {
        way: [_mean([each[name] for each, kind in zip(own, types[way], strict=True) if kind == one]) for one in kinds]
        for way, own in points.items()
    }
    if len(kinds) < 2:
        return None

    def draw(axes: Axes) -> None:
        height = 0.8 / len(means)
        for place, ((way, own), colour) in enumerate(zip(means.items(), COLOURS, strict=False)):
            axes.barh([row + place * height for row in range(len(kinds))], own, height, color=colour, label=way)
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(kinds))], kinds)
        axes.invert_yaxis()
        axes.set_xlabel(_AXES[name])

    return Plot(title, svg(title, draw))


def _mean(known: Sequence[float | None]) -> float:
    numbers = [number for number in known if number is not None]
    return statistics.fmean(numbers) if numbers else 0.0
