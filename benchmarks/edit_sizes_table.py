"""The curves of benchmarks/edit_sizes.py as Markdown, and where each crosses the dense call."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparsedit.measure.spread import Spread, ratios
from sparsedit.report.numbers import NONE, figure, giga, percent, times
from sparsedit.report.text import markdown_text, to_markdown

HEADINGS = ("edited", "sites", "G MACs", "fewer", "seconds", "speed-up", "of limit")
PUBLISHED_HEADINGS = ("published by", "case", "edited", "MACs of dense", "time of dense", "on")

Curve = Mapping[str, Any]


def markdown(document: Mapping[str, Any]) -> str:
    """Every curve's table, with its break-even and what is published beside it."""
    return "\n".join(part for curve in document["curves"] for part in _curve(curve, document["published"]))


def time_shares(curve: Curve, pattern: str) -> list[tuple[float, float]]:
    """(edited share, time of the thin call over the dense one's) by size; the median of the rounds' ratios."""
    found = []
    for point in curve["points"]:
        spread = Spread.of(ratios(point["seconds"], curve["dense"]["seconds"]))
        if point["pattern"] == pattern and spread:
            found.append((point["edit_ratio"], spread.median))
    return sorted(found)


def macs_shares(curve: Curve, pattern: str) -> list[tuple[float, float]]:
    """(edited share, multiply-adds of the thin call over the dense one's) by size; of convolutions and linear layers,
    which is what others publish."""
    points = (point for point in curve["points"] if point["pattern"] == pattern)
    return sorted((point["edit_ratio"], point["macs"] / curve["dense"]["macs"]) for point in points)


def break_even(shares: Sequence[tuple[float, float]]) -> float | None:
    """The edited share at which a curve of (edited share, share of dense) reaches 1, between two points on a log scale.

    None where it stays below, or begins above.
    """
    for (left, below), (right, above) in itertools.pairwise(shares):
        if below < 1 <= above:
            part = math.log(1 / below) / math.log(above / below)
            return math.exp(math.log(left) + part * (math.log(right) - math.log(left)))
    return None


def _curve(curve: Curve, published: Sequence[Mapping[str, Any]]) -> list[str]:
    width, height = curve["size"]
    processor = curve["environment"]["processor"]
    weights = "weights re-ordered once" if curve["packed"] else "weights as they are"
    title = f"{curve['model']}, {curve['stage']}, {width}x{height}, batch {curve['batch']}, {curve['dtype']}"
    machine = f"{processor['name']}, {processor['cores']} cores" if curve["device"] == "cpu" else _gpu(curve)
    about = f"{machine}, torch {curve['environment']['packages']['torch']}, policy {curve['policy']}, {weights}"
    parts = [f"**{markdown_text(title)}** ({markdown_text(about)})\n", to_markdown(HEADINGS, _rows(curve))]
    parts.append("".join(f"- {markdown_text(line)}\n" for line in (*_crossings(curve), *curve["warnings"])))
    beside = [row for row in published if (row["preset"], row["stage"]) == (curve["model"], curve["stage"])]
    if beside:
        parts.append(to_markdown(PUBLISHED_HEADINGS, [_published(row) for row in beside]))
    return parts


def _gpu(curve: Curve) -> str:
    return str(curve["environment"]["gpus"][0]["name"])


def _rows(curve: Curve) -> list[list[str]]:
    dense = curve["dense"]
    spread = Spread.of(dense["seconds"])
    seconds = figure(spread.median if spread else None)
    rows = [["dense", NONE, giga(dense["macs"]), NONE, seconds, NONE, _share(curve, dense)]]
    return rows + [_row(curve, point) for point in curve["points"]]


def _row(curve: Curve, point: Mapping[str, Any]) -> list[str]:
    dense = curve["dense"]
    seconds = Spread.of(point["seconds"])
    speedup = Spread.of(ratios(dense["seconds"], point["seconds"]))
    shown = NONE
    if speedup:
        shown = f"{times(speedup.median)} ({figure(speedup.low)}–{figure(speedup.high)})"
    return [
        f"{percent(point['edit_ratio'])} {point['pattern']}",
        percent(point["sites"]),
        giga(point["macs"]),
        times(dense["macs"] / point["macs"]),
        figure(seconds.median if seconds else None),
        shown,
        _share(curve, point),
    ]


def _share(curve: Curve, entry: Mapping[str, Any]) -> str:
    """The least time at the machine's limit over the median: see sparsedit/report/profile.py."""
    best, seconds = curve["ceilings"], Spread.of(entry["seconds"])
    macs = entry["macs"] + entry["attention_macs"]
    least = max(macs / best["macs_per_second"], entry["least_bytes"] / best["bytes_per_second"])
    return f"{least / seconds.median:.0%}" if seconds else NONE


def _crossings(curve: Curve) -> list[str]:
    """Where thin stops being faster, pattern by pattern."""
    lines = []
    for pattern in dict.fromkeys(point["pattern"] for point in curve["points"]):
        shares = time_shares(curve, pattern)
        at = break_even(shares)
        if at is not None:
            lines.append(f"break-even, {pattern}: {percent(at)} of the pixels")
        elif shares and shares[-1][1] < 1:
            lines.append(f"break-even, {pattern}: none up to {percent(shares[-1][0])} of the pixels")
        else:
            lines.append(f"break-even, {pattern}: below {percent(shares[0][0])} of the pixels")
    return lines


def _published(row: Mapping[str, Any]) -> list[str]:
    edited, macs, time = percent(row["edit_ratio"]), percent(row["macs_share"]), percent(row["time_share"])
    return [row["system"], row["case"], edited, macs, time, row["hardware"] or NONE]
