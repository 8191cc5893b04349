"""The points of benchmarks/tradeoff.py as a picture: fidelity over time saved, and over multiply-adds saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Point = Mapping[str, Any]

# way, first edit or n-th: colour, marker, line, words. Colour-blind safe (Okabe and Ito).
STYLES: dict[tuple[str, bool], tuple[str, str, str, str]] = {
    ("cold", False): ("#d55e00", "o", "-", "cold: K dense, then all thin"),
    ("step-skip", False): ("#555555", "s", "--", "step-skip: K dense, at the same cost"),
    ("crop", False): ("#999999", "X", "", "crop and stitch"),
    ("alongside", True): ("#009e73", "D", "", "alongside: original and edit in one batch"),
    ("record-steps", True): ("#56b4e9", "v", ":", "warm, K steps recorded: first edit"),
    ("record-steps", False): ("#56b4e9", "^", "-", "warm, K steps recorded: n-th edit"),
    ("warm, by policy", False): ("#cc79a7", "P", "-", "warm: n-th edit, tight, close, wide and published"),
    ("warm", True): ("#0072b2", "v", "", "warm: first edit, with its recording"),
    ("warm", False): ("#0072b2", "^", "", "warm: n-th edit"),
}
AXES = {"speed": "times as fast as the dense edit", "macs": "fewer multiply-adds of the UNet, times"}


@dataclass(frozen=True)
class LargeModel:
    """Points of a model whose seconds alone were measured."""

    title: str
    points: Sequence[Point]


def plot(points: Sequence[Point], large: Sequence[LargeModel], picture: Path) -> None:
    """Draw PSNR against speed-up and multiply-adds, a row for every schedule, and a wide row for every large model."""
    from matplotlib.figure import Figure

    schedules = sorted({point["steps"] for point in points})
    rows = len(schedules) + len(large)
    drawing = Figure(figsize=(10, 3.4 * rows + 1.1), layout="constrained")
    cells = drawing.add_gridspec(rows, len(AXES))
    for row, steps in enumerate(schedules):
        own = [point for point in points if point["steps"] == steps]
        for column, axis in enumerate(AXES):
            _panel(drawing.add_subplot(cells[row, column]), own, axis, "" if column else _title(steps, own))
    for row, model in enumerate(large, len(schedules)):
        _panel(drawing.add_subplot(cells[row, :]), model.points, "speed", model.title)
    handles: dict[str, Any] = {}
    for panel in drawing.axes:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawing.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    drawing.suptitle("What is kept against what is saved; up and to the right is better", fontsize=11)
    drawing.savefig(picture, dpi=110)


def _panel(panel: Any, points: Sequence[Point], axis: str, title: str) -> None:
    for (way, first), (colour, marker, line, label) in STYLES.items():
        own = [point for point in points if (point["way"], point["first"]) == (way, first)]
        own.sort(key=lambda point: (point["dense_steps"] or 0, -point[axis]))
        if own:
            x, y = [point[axis] for point in own], [point["psnr"] for point in own]
            panel.plot(x, y, color=colour, marker=marker, markersize=6, linestyle=line or "none", label=label)
            for point in own:
                _name(panel, point, axis, colour)
    panel.axvline(1, color="#000000", linewidth=0.8, label="dense")
    panel.set(xscale="log", xlabel=AXES[axis], ylabel="PSNR inside the edit, dB" if title else "")
    panel.set_title(title, fontsize=10, loc="left")
    panel.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    panel.xaxis.set_minor_formatter(lambda value, _position: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    panel.tick_params(axis="x", which="minor", labelsize=8)
    panel.margins(0.06, 0.14)
    panel.grid(alpha=0.3, which="both")


def _name(panel: Any, point: Point, axis: str, colour: str) -> None:
    """K beside a point that it moves along the axis, or a policy's letter; K of the control follows from the cost."""
    counted = point["dense_steps"] and (point["way"] == "cold" or point["first"])
    name = f"{point['dense_steps']:g}" if counted else (point["policy"] or "")[:1]
    if name:
        place = (point[axis], point["psnr"])
        panel.annotate(name, place, (5, 4), textcoords="offset points", fontsize=7, color=colour)


def _title(steps: int, points: Sequence[Point]) -> str:
    return f"{steps} steps run; edits: {max(point['edits'] for point in points)}; small figures: K, letters: policy"
