"""The rows of benchmarks/series.py as means for every position of a series."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
REGIONS = {"inside": "edited now", "edited": "edited so far", "whole": "whole picture"}


def mean(rows: Iterable[Row], region: str) -> float | None:
    """Mean PSNR of a region in dB; None where no row has one."""
    values = [row[f"{region}_psnr"] for row in rows if row[f"{region}_psnr"] is not None]
    return statistics.fmean(values) if values else None


def curve(rows: Sequence[Row], norm: str, way: str, region: str) -> list[tuple[int, float]]:
    """Mean PSNR of a region, in dB, over the scenes, by position."""
    own = [row for row in rows if (row["norm"], row["way"]) == (norm, way)]
    places = sorted({row["position"] for row in own})
    means = ((place, mean((row for row in own if row["position"] == place), region)) for place in places)
    return [(place, value) for place, value in means if value is not None]


def drifts(rows: Sequence[Row], norm: str, region: str) -> list[tuple[int, float]]:
    """By how many dB a series lies below edits on fresh recordings, by position."""
    fresh, series = (dict(curve(rows, norm, way, region)) for way in ("fresh", "series"))
    return [(place, fresh[place] - series[place]) for place in sorted(fresh.keys() & series.keys())]


def table(rows: Sequence[Row]) -> str:
    """Drift by position, and on average from the second edit on, as a table in Markdown: a column for each norm and
    region."""
    norms = sorted({row["norm"] for row in rows})
    columns = {(norm, region): dict(drifts(rows, norm, region)) for norm in norms for region in REGIONS}
    scenes = len({row["scene"] for row in rows})
    lines = [
        f"Drift in dB, {scenes} scenes",
        "| edit | " + " | ".join(f"norm {norm}, {REGIONS[region]}" for norm, region in columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    places = sorted({row["position"] for row in rows})
    lines += [_line(str(place), [column.get(place) for column in columns.values()]) for place in places]
    later = ([drift for place, drift in column.items() if place > 1] for column in columns.values())
    return "\n".join([*lines, _line("mean from 2 on", [statistics.fmean(each) if each else None for each in later])])


def _line(name: str, values: Sequence[float | None]) -> str:
    return f"| {name} | " + " | ".join("" if each is None else f"{each:.2f}" for each in values) + " |"
