"""Profiles as tables: two for each on a terminal, the same in Markdown, and one line per stage in CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparsedit.measure.spread import Spread
from sparsedit.report.numbers import NONE, arrow, figure, giga, size_of, times
from sparsedit.report.profile import (
    PARTS,
    Profile,
    ProfileRow,
    beyond,
    explanations,
    machine,
    notes,
    profile_rows,
    title,
)
from sparsedit.report.table import WIDE, cells, grid
from sparsedit.report.text import Cell, markdown_text, printable, to_csv, to_markdown

HEADINGS = ("stage", "GMACs", "fewer", "attention", "seconds", "spread", "speed-up", "range", "of limit")
MEMORY_HEADINGS = ("stage", "bytes moved at least", "remembered", "peak memory")
# The columns of a terminal: the second line of each below the first.
_STACKED = ((0,), (1, 2), (3,), (4, 5), (6, 7), (8,))

Groups = Sequence[Sequence[int]]


def profile_csv(profiles: Sequence[Profile]) -> str:
    """One line per stage of every profile, numbers unrounded."""
    return to_csv([_flat(profile, row) for profile in profiles for row in profile_rows(profile)])


def profile_markdown(profiles: Sequence[Profile], environment: Mapping[str, Any]) -> str:
    """The tables and notes of every profile."""
    parts = []
    for profile in profiles:
        rows = profile_rows(profile)
        named = [[f"{PARTS[row.part]}: {row.name}", *row_cells(row)[1:]] for row in rows]
        memory = [[f"{PARTS[row.part]}: {row.name}", *memory_cells(row)[1:]] for row in rows]
        parts += [
            markdown_text(title(profile)) + "\n",
            to_markdown(HEADINGS, named),
            to_markdown(MEMORY_HEADINGS, memory),
            "".join(f"- {markdown_text(note)}\n" for note in notes(profile)),
        ]
    return "\n".join([*parts, markdown_text(machine(profiles, environment)) + "\n"])


def profile_view(profiles: Sequence[Profile], environment: Mapping[str, Any], width: int) -> RenderableType:
    """Everything for a terminal of `width` columns; from 80 on nothing is folded. Empty columns are left out."""
    parts: list[RenderableType] = []
    for profile in profiles:
        rows = profile_rows(profile)
        parts += [
            Text(printable(title(profile)), style="bold"),
            _cost_table(rows, width),
            Text(),
            _memory_table(rows),
            Text(),
        ]
        parts += [Text(printable(note), style="dim") for note in explanations(profile)]
        parts += [Text(printable(note), style="yellow") for note in profile["warnings"] + beyond(rows)]
    return Group(*parts, Text(printable(machine(profiles, environment)), style="dim"))


def row_cells(row: ProfileRow) -> list[str]:
    """A row under `HEADINGS`, as it is read."""
    dense, sparse = row.dense, row.sparse
    return [
        row.name,
        arrow(giga(dense.macs), giga(sparse.macs)),
        times(row.macs_ratio),
        arrow(giga(dense.attention_macs), giga(sparse.attention_macs)),
        arrow(_median(dense.seconds), _median(sparse.seconds)),
        arrow(_width(dense.seconds), _width(sparse.seconds)),
        times(row.speedup.median if row.speedup else None),
        NONE if row.speedup is None else f"{figure(row.speedup.low)}–{figure(row.speedup.high)}×",
        arrow(_whole_percent(dense.share), _whole_percent(sparse.share)),
    ]


def memory_cells(row: ProfileRow) -> list[str]:
    """A row under `MEMORY_HEADINGS`."""
    return [
        row.name,
        arrow(size_of(row.dense.least_bytes), size_of(row.sparse.least_bytes)),
        size_of(row.cache_bytes),
        arrow(size_of(row.dense.peak_bytes), size_of(row.sparse.peak_bytes)),
    ]


def _cost_table(rows: Sequence[ProfileRow], width: int) -> Table:
    groups: Groups = [(index,) for index in range(len(HEADINGS))] if width >= WIDE else _STACKED
    said = {index for row in rows for index, value in enumerate(row_cells(row)) if value != NONE}
    groups = [kept for group in groups if (kept := [index for index in group if index in said])]
    headings = ("\n".join(HEADINGS[index] for index in group) for group in groups)
    table = grid((heading, "right" if column else "left") for column, heading in enumerate(headings))
    _fill(table, rows, [_stacks(row, groups) for row in rows])
    return table


def _memory_table(rows: Sequence[ProfileRow]) -> Table:
    shown = [row for row in rows if row.part == "call" or row.stage == "total"]
    lines = [memory_cells(row) for row in shown]
    said = [index for index in range(len(MEMORY_HEADINGS)) if any(line[index] != NONE for line in lines)]
    table = grid((MEMORY_HEADINGS[index], "right" if index else "left") for index in said)
    _fill(table, shown, [cells([line[index] for index in said]) for line in lines])
    return table


def _fill(table: Table, rows: Sequence[ProfileRow], lines: Sequence[Sequence[Text]]) -> None:
    """Add the lines, each part under its name."""
    part = None
    for row, line in zip(rows, lines, strict=True):
        if row.part != part:
            table.add_section()
            table.add_row(Text(PARTS[row.part], style="bold"))
            part = row.part
        table.add_row(*line)


def _stacks(row: ProfileRow, groups: Groups) -> list[Text]:
    values = cells(row_cells(row))
    for group in groups:
        for index in group[1:]:
            values[index].stylize("dim")
    return [
        Text("\n").join(values[index] for index in group if index == group[0] or values[index].plain != NONE)
        for group in groups
    ]


def _flat(profile: Profile, row: ProfileRow) -> dict[str, Cell]:
    width, height = profile["size"]
    kept = ("case", "variant", "model", "refiner", "task", "policy", "batch", "device", "edit_ratio", "sites")
    flat: dict[str, Cell] = {key: profile.get(key) for key in kept}
    flat |= {"width": width, "height": height, "part": row.part, "stage": row.stage, "calls": row.calls}
    for kind, side in (("dense", row.dense), ("sparse", row.sparse)):
        counted = {key: getattr(side, key) for key in ("macs", "attention_macs", "least_bytes", "peak_bytes", "share")}
        flat |= {f"{kind}_{key}": value for key, value in counted.items()} | _spread(f"{kind}_s", side.seconds)
    return flat | {"macs_ratio": row.macs_ratio} | _spread("speedup", row.speedup) | {"cache_bytes": row.cache_bytes}


def _spread(name: str, spread: Spread | None) -> dict[str, Cell]:
    values = (spread.median, spread.low, spread.high) if spread else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _median(spread: Spread | None) -> str:
    return figure(spread.median if spread else None)


def _width(spread: Spread | None) -> str:
    return NONE if spread is None else f"{(spread.high - spread.low) / spread.median:.0%}"


def _whole_percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"
