"""The points of benchmarks/tradeoff.py as a picture: fidelity over time saved, and over multiply-adds saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    ("warm, norms original", False): ("#cc79a7", "P", "-", "warm: n-th edit, tight, close and published"),
    ("warm, norms updated", False): ("#cc79a7", "p", ":", "the same, norms follow the edit"),
    ("warm", True): ("#0072b2", "v", "", "warm: first edit, with its recording"),
    ("warm", False): ("#0072b2", "^", "", "warm: n-th edit"),
}
AXES = {"speed": "times as fast as the dense edit", "macs": "fewer multiply-adds of the UNet, times"}


def plot(points: Sequence[Point], picture: Path) -> None:
    """Draw a row for every schedule: PSNR against speed-up, and against multiply-adds."""
    from matplotlib.figure import Figure

    schedules = sorted({point["steps"] for point in points})
    drawing = Figure(figsize=(10, 3.4 * len(schedules) + 1.1), layout="constrained")
    panels = drawing.subplots(len(schedules), 2, squeeze=False, sharey="row")
    for row, steps in zip(panels, schedules, strict=True):
        own = [point for point in points if point["steps"] == steps]
        for panel, axis in zip(row, AXES, strict=True):
            _panel(panel, own, axis)
        row[0].set_ylabel("PSNR inside the edit, dB")
        row[0].set_title(_title(steps, own), fontsize=10, loc="left")
    handles: dict[str, Any] = {}
    for panel in panels.flat:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawing.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    drawing.suptitle("What is kept against what is saved; up and to the right is better", fontsize=11)
    drawing.savefig(picture, dpi=110)


def _panel(panel: Any, points: Sequence[Point], axis: str) -> None:
    for (way, first), (colour, marker, line, label) in STYLES.items():
        own = [point for point in points if (point["way"], point["first"]) == (way, first)]
        own.sort(key=lambda point: (point["dense_steps"] or 0, -point["macs"]))
        if own:
            x, y = [point[axis] for point in own], [point["psnr"] for point in own]
            panel.plot(x, y, color=colour, marker=marker, markersize=6, linestyle=line or "none", label=label)
            for point in own:
                _name(panel, point, axis, colour)
    panel.axvline(1, color="#000000", linewidth=0.8, label="dense")
    panel.set(xscale="log", xlabel=AXES[axis])
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
