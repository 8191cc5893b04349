"""A bench's tables as they are read: on a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sparsedit.metrics.comparison import ALL, Comparison
from sparsedit.metrics.interval import Mean
from sparsedit.published import PublishedRow
from sparsedit.report.bench import FACTS, Line, Tables
from sparsedit.report.numbers import NONE, figure
from sparsedit.report.table import blocks, cells, grid, lines_of
from sparsedit.report.text import Cell, markdown_text, printable, to_csv, to_latex, to_markdown
from sparsedit.suites.edit import DERIVED

LABELS = {
    "inside_psnr": "PSNR in", "inside_ssim": "SSIM in", "inside_lpips": "LPIPS in", "whole_psnr": "PSNR all",
    "macs_ratio": "fewer MACs", "speedup": "n-th edit", "first_speedup": "1st edit", "seconds": "seconds",
    "truth_psnr": "PSNR to truth", "truth_ssim": "SSIM to truth", "psnr": "bg PSNR", "ssim": "bg SSIM",
    "lpips": "bg LPIPS", "mse": "bg MSE", "clip": "CLIP", "clip_edited": "CLIP edited", "structure": "structure",
}  # fmt: skip
NAMED = ("way", "track", "n", "failed", "ran dense")
PUBLISHED = ("published by", "model", "case", "protocol", "on", "figures")
DIFFERENCES = ("way", "edits", "value", "difference", "n")

_TERMINAL = ("inside_psnr", "whole_psnr", "macs_ratio", "speedup", "first_speedup", "truth_psnr")
"""What a terminal has room for."""
EXPLAINED = (
    "in: the edited pixels, all: the whole picture, both against the dense edit; truth: what the edit should have "
    "made, inside its mask; bg: against the original outside the mask, protocol pnp-v1; n-th edit and 1st edit: times "
    "as fast as dense, without and with what is recorded first; in brackets the mean's 95 % interval, and after it how "
    "many edits have the value, where not all have"
)

Rows = list[list[str]]


def bench_view(shown: Tables, title: str, width: int) -> RenderableType:
    """The tables for a terminal of `width` columns: the values that matter most, of all edits and then each type.

    Their intervals stand below them where there is room; values that do not fit go into further tables.
    """
    parts: list[RenderableType] = [Text(printable(title), style="bold")]
    columns = [column for column in shown.columns if column in _TERMINAL]
    headings = ["edits", "ran\ndense", *(LABELS[column].replace(" ", "\n", 1) for column in columns)]
    names = ["way", *map(_said, shown.groups), *map(_named, shown.lines)]
    for intervals in (True, False):
        values = [_short(line, columns, intervals=intervals) for line in shown.lines]
        tables = blocks(names, [[heading, *own] for heading, *own in zip(headings, *values, strict=True)], width)
        if len(tables) == 1:
            break
    for block in tables:
        parts += [_block(shown, headings, values, block), Text()]
    for heading, titles, rows in _further(shown):
        parts.append(Text(heading, style="bold"))
        further = grid((name, "left") for name in titles)
        for row in rows:
            further.add_row(*cells(row))
        parts += [further, Text()]
    parts += [Text(printable(note), style="yellow") for note in shown.notes]
    return Stack(*parts, Text(EXPLAINED, style="dim"))


def _block(shown: Tables, headings: Sequence[str], values: Sequence[Sequence[str]], block: range) -> Table:
    """The table of some columns: a line for each way, group by group."""
    table = grid([("way", "left"), *((headings[place], "right") for place in block)])
    for group in shown.groups:
        table.add_row(*cells([_said(group)]), style="bold")
        for line, own in zip(shown.lines, values, strict=True):
            if line.group == group:
                table.add_row(*cells([_named(line)]), *(lines_of(own[place]) for place in block))
        table.add_section()
    return table


def bench_markdown(shown: Tables, title: str) -> str:
    """A table of all edits and one of each type, the published rows, the differences, the notes."""
    parts = [f"**{markdown_text(title)}**\n"]
    for heading, headings, rows in sections(shown):
        parts.append(f"**{markdown_text(heading)}**\n\n{to_markdown(headings, rows)}")
    parts.append("".join(f"- {markdown_text(note)}\n" for note in (*shown.notes, EXPLAINED)))
    return "\n".join(parts)


def bench_latex(shown: Tables) -> str:
    """The same tables, each a `tabular` with the rules of booktabs."""
    return "\n".join(to_latex(headings, rows) for _, headings, rows in sections(shown))


def bench_csv(shown: Tables) -> str:
    """One line for each way, configuration and group, numbers unrounded."""
    return to_csv([_flat(line, shown.columns) for line in shown.lines])


def sections(shown: Tables) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """Every table with its heading and the headings of its columns: all edits, each type, differences, published."""
    yield from _by_group(shown)
    yield from _further(shown)


def interval(mean: Mean | None, of: int) -> str:
    """A mean with its interval, and how many values it has where that is not all: "42.1 (40.3–43.9), 12"."""
    if mean is None:
        return NONE
    low, high = figure(mean.low), figure(mean.high)
    ends = "" if low == high else f" ({low}–{high})"
    return f"{figure(mean.mean)}{ends}" + (f", {mean.count}" if mean.count < of else "")


def _by_group(shown: Tables) -> Iterator[tuple[str, Sequence[str], Rows]]:
    for group in shown.groups:
        rows = [row[1:] for row in _rows(shown, group, shown.columns)]
        yield _said(group), _headings(shown.columns)[1:], rows


def _further(shown: Tables) -> Iterator[tuple[str, Sequence[str], Rows]]:
    if shown.differences:
        rows = [row for name, each in shown.differences.items() for row in _difference_rows(name, each)]
        yield "run less baseline, same edits", DIFFERENCES, rows
    if shown.published:
        yield "published, by others and elsewhere", PUBLISHED, [_published_row(row) for row in shown.published]


def _said(group: str) -> str:
    return "all edits" if group == ALL else group


def _named(line: Line) -> str:
    return line.name + ("" if line.track == DERIVED else f" ({line.track.removeprefix('mask-')})")


def _short(line: Line, columns: Sequence[str], *, intervals: bool) -> list[str]:
    counts = str(line.count) + (f" of {line.count + line.failed}" if line.failed else "")
    known = (line.means[column] for column in columns)
    values = [
        interval(mean, line.count).replace(" ", "\n", 1) if intervals else figure(mean.mean if mean else None)
        for mean in known
    ]
    return [counts, str(line.dense), *values]


def _headings(columns: Sequence[str]) -> list[str]:
    return ["edits", *NAMED, *(LABELS[column] for column in columns)]


def _rows(shown: Tables, group: str, columns: Sequence[str]) -> Rows:
    return [
        [
            line.group,
            line.name,
            line.track.removeprefix("mask-"),
            str(line.count),
            str(line.failed),
            str(line.dense),
            *(interval(line.means[column], line.count) for column in columns),
        ]
        for line in shown.lines
        if line.group == group
    ]


def _difference_rows(name: str, comparison: Comparison) -> Iterator[list[str]]:
    for group in comparison.groups():
        for column in comparison.columns:
            mean = group.means[column]
            if mean is not None:
                yield [name, group.name, column, interval(mean, mean.count), str(mean.count)]


def _published_row(row: PublishedRow) -> list[str]:
    said = {name: value for name, value in row.figures.model_dump().items() if value is not None}
    figures = [f"{name} {_ends(value)}" for name, value in said.items()]
    figures += [f"{row.stage} {figure(row.gmacs)} GMACs"] if row.gmacs else []
    figures += [f"{row.stage} {figure(row.ms)} ms"] if row.ms else []
    on = ", ".join(filter(None, (row.hardware, row.dtype)))
    return [f"{row.system} ({row.year})", row.model, row.case, row.protocol or NONE, on or NONE, ", ".join(figures)]


def _ends(value: Sequence[float]) -> str:
    low, high = value
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _flat(line: Line, columns: Sequence[str]) -> dict[str, Cell]:
    flat: dict[str, Cell] = {fact: getattr(line, fact) for fact in FACTS}
    for column in columns:
        flat |= _mean_cells(column, line.means[column], line.left_out)
    return flat


def _mean_cells(column: str, mean: Mean | None, left_out: Mapping[str, int]) -> dict[str, Any]:
    low, high = (None, None) if mean is None else (mean.low, mean.high)
    whole = {"": mean and mean.mean, "_low": low, "_high": high, "_n": mean.count if mean else 0}
    return {column + ending: value for ending, value in whole.items()} | {f"{column}_left_out": left_out[column]}
