"""The rows of benchmarks/series.py as a picture: what is left of fidelity from edit to edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.series_table import REGIONS, Row, curve, drifts

COLOURS = {"original": "#0072b2", "updated": "#d55e00"}
GOAL = 1.5
"""Drift in dB that a series of ten may reach."""


def plot(rows: Sequence[Row], picture: Path) -> None:
    """Draw PSNR and drift by position. Raises ImportError without matplotlib, which is an extra."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4.2), layout="constrained")
    inside, whole, drift = panels = drawing.subplots(1, 3)
    for panel, region in ((inside, "inside"), (whole, "whole")):
        _curves(panel, rows, region)
    _drift(drift, rows)
    for panel in panels:
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    scenes, steps = len({row["scene"] for row in rows}), rows[0]["steps"]
    drawing.suptitle(f"Consecutive edits, demo model, {steps} steps; scenes: {scenes}", fontsize=11)
    drawing.savefig(picture, dpi=110)


def _curves(panel: Any, rows: Sequence[Row], region: str) -> None:
    for norm in _norms(rows):
        for way, line in (("fresh", ":"), ("series", "-")):
            label = {"fresh": "recorded anew for each", "series": "one recording, renewed"}[way]
            _line(panel, curve(rows, norm, way, region), norm, line, f"{label}, norm {norm}")
    panel.set(ylabel="PSNR against the dense edit, dB")
    _finish(panel, REGIONS[region])


def _drift(panel: Any, rows: Sequence[Row]) -> None:
    for norm in _norms(rows):
        for region, line in (("inside", "-"), ("whole", "--")):
            _line(panel, drifts(rows, norm, region), norm, line, f"{REGIONS[region]}, norm {norm}")
    panel.axhline(GOAL, color="#555555", linewidth=1, linestyle=":", label=f"goal: {GOAL} dB")
    panel.axhline(0, color="#555555", linewidth=0.6)
    panel.set(ylabel="drift, dB")
    _finish(panel, "what the series loses")


def _norms(rows: Sequence[Row]) -> list[str]:
    return sorted({row["norm"] for row in rows})


def _line(panel: Any, points: Sequence[tuple[int, float]], norm: str, line: str, label: str) -> None:
    x, y = [place for place, _ in points], [value for _, value in points]
    panel.plot(x, y, color=COLOURS[norm], linestyle=line, marker="o", markersize=3, label=label)


def _finish(panel: Any, title: str) -> None:
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("edit of the series")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)
