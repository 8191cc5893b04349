"""The summary of a run on a terminal. Fits 80 columns with two lines per edit, and takes one where there is room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparsedit.report.summary import Row, Summary
from sparsedit.report.text import HEADINGS, STAGE_HEADINGS, TEXT_COLUMNS, printable, row_cells, stage_cells

if TYPE_CHECKING:
    from rich.console import JustifyMethod

WIDE = 120
"""Columns from which an edit has one line."""

_FOLD = 12  # where names and types of edits fold at the latest, when there is little room
_PADDING = 2  # what `grid` puts between columns

# The columns that share one where there is less room, the second below the first.
_STACKED = ((0, 1), (2, 3), (4, 5), (6,), (7, 8), (9, 10))


def summary_view(summary: Summary, width: int) -> RenderableType:
    """Everything of a summary, for a terminal of `width` columns."""
    parts: list[RenderableType] = [Text(printable(summary.title), style="bold"), *_edits(summary, width)]
    if summary.stages:
        stages = grid((heading, "right" if index else "left") for index, heading in enumerate(STAGE_HEADINGS))
        for stage in summary.stages:
            stages.add_row(*cells(stage_cells(stage)))
        parts += [stages, Text()]
    parts += [Text(printable(note), style="yellow") for note in summary.notes]
    if summary.machine:
        parts.append(Text(printable(summary.machine), style="dim"))
    return Group(*parts)


def grid(columns: Iterable[tuple[str, JustifyMethod]]) -> Table:
    """An empty table in the house style; columns are headings with how their cells are set."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading, justify in columns:
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=justify == "right")
    return table


def blocks(names: Sequence[str], columns: Sequence[Sequence[str]], width: int, fold: int | None = None) -> list[range]:
    """Which columns stand beside the names in a table of `width`, table by table: as many in each as fit.

    A column is its heading and cells, of one line or more. Words longer than `fold` (else a third of the width) are
    folded; figures, which are not, never take their place.
    """
    fold = fold or width // 3
    beside = min(_widest(names), fold)
    starts, used = [0], beside
    for place, column in enumerate(columns):
        wide = min(_widest(column), fold) + _PADDING
        used += wide
        if used > width and place > starts[-1]:
            starts.append(place)
            used = beside + wide
    return [range(start, end) for start, end in pairwise([*starts, len(columns)])]


def cells(values: Iterable[str]) -> list[Text]:
    """Values as they are: no markup is read in them, and nothing of them acts on the terminal."""
    return [Text(printable(value)) for value in values]


def lines_of(value: str) -> Text:
    """A value of our own making, of one line or more; those below the first are softer."""
    first, *more = cells(value.split("\n"))
    for line in more:
        line.stylize("dim")
    return Text("\n").join([first, *more])


def _widest(values: Sequence[str]) -> int:
    return max((cell_len(line) for value in values for line in value.split("\n")), default=0)


def _edits(summary: Summary, width: int) -> Iterator[RenderableType]:
    """The table of edits; in several where a terminal is too narrow for one."""
    groups: Sequence[Sequence[int]] = [(index,) for index in range(len(HEADINGS))] if width >= WIDE else _STACKED
    rows = (*summary.rows, *summary.means)
    lines = [["\n".join(values[index] for index in group) for group in groups] for values in _printable(rows)]
    headings = ["\n".join(HEADINGS[index] for index in group) for group in groups]
    names, *columns = ([heading, *own] for heading, *own in zip(headings, *lines, strict=True))
    for block in blocks(names, columns, width, _FOLD):
        shown = [0, *(place + 1 for place in block)]
        table = grid((headings[place], "left" if groups[place][0] in TEXT_COLUMNS else "right") for place in shown)
        for row, line in zip(rows, lines, strict=True):
            table.add_row(*(lines_of(line[place]) for place in shown), style=_style(row, summary))
            if row is summary.rows[-1]:
                table.add_section()
        yield table
        yield Text()


def _printable(rows: Iterable[Row]) -> Iterator[list[str]]:
    return ([printable(value) for value in row_cells(row)] for row in rows)


def _style(row: Row, summary: Summary) -> str:
    if row.failed:
        return "red"
    return "bold" if row in summary.means else ""
