"""The curves of benchmarks/edit_sizes.py as a picture: time and multiply-adds as shares of the dense call's.

Shares, so that figures published from other hardware can stand in it: each is over its own dense figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.edit_sizes_table import Curve, break_even, macs_shares, time_shares
from sparsedit.measure.spread import Spread
from sparsedit.report.numbers import figure, giga, percent

STYLES = {"contiguous": ("#0072b2", "-", "o"), "scattered": ("#d55e00", "--", "s")}
PUBLISHED = "#009e73"


def plot(document: Mapping[str, Any], picture: Path) -> None:
    """Draw every curve, two panels each. Raises ImportError without matplotlib, which is an extra."""
    from matplotlib.figure import Figure

    curves = document["curves"]
    drawing = Figure(figsize=(10, 3.8 * len(curves)), layout="constrained")
    for row, curve in zip(drawing.subplots(len(curves), 2, squeeze=False), curves, strict=True):
        beside = [
            point
            for point in document["published"]
            if (point["preset"], point["stage"]) == (curve["model"], curve["stage"])
        ]
        _time_panel(row[0], curve, beside)
        _macs_panel(row[1], curve, beside)
    drawing.savefig(picture, dpi=110)


def _time_panel(panel: Any, curve: Curve, published: Sequence[Mapping[str, Any]]) -> None:
    seconds = Spread.of(curve["dense"]["seconds"])
    dense = f"dense: {figure(seconds.median if seconds else None)} s"
    for pattern in STYLES:
        shares = time_shares(curve, pattern)
        _line(panel, shares, pattern)
        if (at := break_even(shares)) is not None:
            label = f"break-even, {pattern}: {percent(at)}"
            panel.axvline(100 * at, color=STYLES[pattern][0], linestyle=":", linewidth=1, label=label)
    _points(panel, [(row["edit_ratio"], row["time_share"], row["system"]) for row in published if row["time_share"]])
    _finish(panel, f"{_title(curve)}: time of a call", dense)


def _macs_panel(panel: Any, curve: Curve, published: Sequence[Mapping[str, Any]]) -> None:
    for pattern in STYLES:
        _line(panel, macs_shares(curve, pattern), pattern)
    _points(panel, [(row["edit_ratio"], row["macs_share"], row["system"]) for row in published])
    _finish(panel, f"{_title(curve)}: convolutions and linears", f"dense: {giga(curve['dense']['macs'])} G MACs")


def _title(curve: Curve) -> str:
    width, height = curve["size"]
    return f"{curve['model']} {curve['stage']}, {width}x{height}, {curve['dtype']}"


def _line(panel: Any, shares: Sequence[tuple[float, float]], pattern: str) -> None:
    colour, line, marker = STYLES[pattern]
    x, y = [100 * ratio for ratio, _ in shares], [100 * share for _, share in shares]
    panel.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=4, label=f"thin, {pattern}")


def _points(panel: Any, points: Sequence[tuple[float, float, str]]) -> None:
    for system in dict.fromkeys(name for _, _, name in points):
        x, y = zip(*((100 * ratio, 100 * share) for ratio, share, name in points if name == system), strict=True)
        panel.scatter(x, y, color=PUBLISHED, marker="^", zorder=3, label=f"published, {system}")


def _finish(panel: Any, title: str, dense: str) -> None:
    panel.axhline(100, color="#555555", linewidth=1, label=dense)
    panel.set_title(title, fontsize=10)
    panel.set(xscale="log", yscale="log", xlabel="edited pixels, %", ylabel="% of the dense call")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _position: f"{value:g}")
        axis.set_minor_formatter(lambda value, _position: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axis.set_tick_params(which="minor", labelsize=7)
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=7, loc="lower right")
