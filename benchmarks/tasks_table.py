"""The rows of `benchmarks.tasks` as tables in Markdown."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

Row = dict[str, Any]


def table(rows: list[Row]) -> str:
    """Fidelity and cost of every kind of edit, and success of those by words."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    read = {kind: [row for row in group if "wanted" in row] for kind, group in kinds.items()}
    parts = [_lines(COSTS, {kind: _costs(group) for kind, group in kinds.items()})]
    parts.append(_lines(SUCCESS, {kind: _success(group) for kind, group in read.items() if group}))
    changes: dict[str, list[Row]] = defaultdict(list)
    for row in read.get("prompt", []):
        changes[row["edit"]].append(row)
    parts.append(_lines(SUCCESS, {edit: _success(group) for edit, group in sorted(changes.items())}))
    return "\n".join(parts)


COSTS = (
    "edits", "sparse", "mask, median", "UNet MACs", "all MACs, mean", "median", "of sparse ones",
    "time, median", "of sparse ones", "inside, mean dB", "median", "30 dB and more", "outside equal",
    "outside, dense, dB", "inside, fewer dense steps, dB",
)  # fmt: skip
SUCCESS = ("edits", "before", "sparse", "dense", "difference", "fewer dense steps", "agree", "probe on rendered")


def _costs(rows: list[Row]) -> list[str]:
    thin = [row for row in rows if row["way"] == "warm"]
    inside = [row["inside_psnr"] for row in thin if row["inside_psnr"] is not None]
    outside = [row["background_dense"] for row in thin if row["background_dense"] is not None]
    shares = [row["share"] for row in rows]
    return [
        str(len(rows)),
        str(len(thin)),
        _percent(statistics.median(row["mask_ratio"] for row in rows)),
        _mean([row["unet_share"] for row in rows], "{:.3f}"),
        _mean(shares, "{:.3f}"),
        f"{statistics.median(shares):.3f}",
        _mean([row["share"] for row in thin], "{:.3f}"),
        *(f"{statistics.median(_times(some)):.3f}" if some else "–" for some in (rows, thin)),
        _mean(inside, "{:.1f}"),
        f"{statistics.median(inside):.1f}" if inside else "–",
        f"{sum(psnr >= 30 for psnr in inside)} of {len(inside)}",
        f"{sum(row['outside_equal'] for row in thin)} of {len(thin)}",
        _mean(outside, "{:.1f}"),
        _mean([row["fewer_inside_psnr"] for row in thin if row.get("fewer_inside_psnr") is not None], "{:.1f}"),
    ]


def _times(rows: list[Row]) -> list[float]:
    """Seconds of the sparse edits as shares of the dense ones'."""
    return [row["sparse_s"] / row["dense_s"] for row in rows]


def _success(rows: list[Row]) -> list[str]:
    shown = {
        who: [row[f"read_{who}"] == row["wanted"] for row in rows]
        for who in ("original", "sparse", "dense", "fewer", "rendered")
    }
    rates = {who: statistics.fmean(values) for who, values in shown.items()}
    agree = statistics.fmean(a == b for a, b in zip(shown["sparse"], shown["dense"], strict=True))
    return [
        str(len(rows)),
        *(_percent(rates[who]) for who in ("original", "sparse", "dense")),
        f"{100 * (rates['sparse'] - rates['dense']):+.1f}",
        _percent(rates["fewer"]),
        _percent(agree),
        _percent(rates["rendered"]),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _mean(values: list[float], shape: str) -> str:
    return shape.format(statistics.fmean(values)) if values else "–"


def _lines(head: tuple[str, ...], body: dict[str, list[str]]) -> str:
    lines = [["", *head], ["---"] * (len(head) + 1), *([name, *cells] for name, cells in body.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if body else ""
