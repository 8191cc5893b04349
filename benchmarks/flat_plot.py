"""The curves of benchmarks/flat.py as a picture: seconds over what should not matter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsedit.measure.spread import Spread

WORDS = {
    "variants": ("variants in one batch", "seconds of one variant"),
    "pixels": ("side of the picture, px", "seconds of a thin call"),
    "steps": ("steps", "seconds of one step of an edit"),
}


def plot(document: Mapping[str, Any], picture: Path) -> None:
    """Draw every curve: medians, the span of the samples, and counted multiply-adds where they are known."""
    from matplotlib.figure import Figure

    curves = document["curves"]
    drawing = Figure(figsize=(4.2 * len(curves), 3.4), layout="constrained")
    for panel, (name, curve) in zip(drawing.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        _panel(panel, name, curve)
    drawing.savefig(picture, dpi=110)


def _panel(panel: Any, name: str, curve: Mapping[str, Any]) -> None:
    x = [point["x"] for point in curve["points"]]
    spreads = [Spread.of(point["seconds"]) for point in curve["points"]]
    medians = [spread.median for spread in spreads if spread]
    below = [spread.median - spread.low for spread in spreads if spread]
    above = [spread.high - spread.median for spread in spreads if spread]
    panel.errorbar(x, medians, yerr=[below, above], color="#0072b2", marker="o", markersize=4, capsize=3, label="time")
    counted = [point["counted"] for point in curve["points"]]
    if all(counted):
        macs = [each["macs"] + each["attention_macs"] for each in counted]
        scaled = [medians[0] * each / macs[0] for each in macs]
        panel.plot(x, scaled, color="#d55e00", linestyle="--", marker="s", markersize=4, label="multiply-adds, scaled")
    along, up = WORDS[name]
    panel.set_xscale("log", base=2)
    panel.set_xticks(x, [str(each) for each in x])
    panel.set(xlabel=along, ylabel=up)
    panel.set_ylim(bottom=0)
    panel.set_title(f"{curve['model']}: {name}", fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
