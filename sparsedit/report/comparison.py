"""A comparison for a terminal and as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sparsedit.metrics.comparison import Case, Comparison, Group
from sparsedit.metrics.interval import Mean
from sparsedit.report.numbers import NONE
from sparsedit.report.table import cells, grid
from sparsedit.report.text import Cell, markdown_text, printable, to_csv, to_latex, to_markdown

# A column of figures takes this many characters of a terminal, names the rest.
_COLUMN, _NAMES = 10, 22
_SHOWN_NAMES = 10


def comparison_view(comparison: Comparison, width: int) -> RenderableType:
    """Everything of a comparison for a terminal of `width` columns; columns that do not fit go into further tables."""
    at_once = max((width - _NAMES) // _COLUMN, 1)
    parts: list[RenderableType] = [Text(printable(comparison.what), style="bold")]
    for start in range(0, len(comparison.columns), at_once):
        columns = comparison.columns[start : start + at_once]
        table = grid([("case", "left"), *((column.replace("_", "\n"), "right") for column in columns)])
        for case in comparison.cases:
            table.add_row(*cells([case.name, *_case_cells(case, columns)]), style="red" if case.reason else "")
        table.add_section()
        for group in comparison.groups() if len(comparison.cases) > 1 else ():
            table.add_row(*cells([_group_name(group), *_group_cells(group, columns)]), style="bold")
            bounds = [_bounds(group.means[column]) for column in columns]
            for label, side in (("  95 % from", 0), ("  to", 1)) if any(map(any, bounds)) else ():
                table.add_row(*cells([label, *(bound[side] for bound in bounds)]), style="dim")
        parts += [table, Text()]
    parts += [Text(printable(note), style="yellow") for note in notes(comparison)]
    return Lines(*parts)


def comparison_csv(comparison: Comparison) -> str:
    """One line per case, unrounded."""
    return to_csv([_flat(case, comparison.columns) for case in comparison.cases])


def comparison_markdown(comparison: Comparison) -> str:
    """Cases, means and notes."""
    parts = [
        markdown_text(comparison.what) + "\n",
        to_markdown(("case", *comparison.columns), _rows(comparison)),
        "".join(f"- {markdown_text(note)}\n" for note in notes(comparison)),
    ]
    return "\n".join(part for part in parts if part)


def comparison_latex(comparison: Comparison) -> str:
    """Cases and means as a `tabular` of booktabs'."""
    return to_latex(("case", *comparison.columns), _rows(comparison))


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the numbers."""
    said = [f"{name}: {reason}" for name, reason in comparison.missing.items()]
    everything = comparison.groups()[0]
    for case in comparison.cases:
        own = {name: why for name, why in case.missing.items() if name not in comparison.missing}
        said += [
            f"{case.name}: {why}" for why in dict.fromkeys(([case.reason] if case.reason else []) + [*own.values()])
        ]
    if left_out := {column: count for column, count in everything.left_out.items() if 0 < count < everything.count}:
        counts = ", ".join(f"{column} {count}" for column, count in left_out.items())
        said.append(f"left out of the mean, for want of a value: {counts}")
    if everything.identical and len(comparison.cases) > 1:
        said.append(f"identical, so without a PSNR: {everything.identical} of {everything.count}")
    for side, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        if names:
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            said.append(f"only in {side}: {', '.join(names[:_SHOWN_NAMES])}{more}")
    return said


def _rows(comparison: Comparison) -> list[list[str]]:
    columns = comparison.columns
    rows = [[case.name, *_case_cells(case, columns)] for case in comparison.cases]
    if len(comparison.cases) > 1:
        for group in comparison.groups():
            bounds = ["..".join(_bounds(group.means[column])) for column in columns]
            means = zip(_group_cells(group, columns), bounds, strict=True)
            rows.append(
                [_group_name(group), *(f"{mean} ({bound})" if bound != ".." else mean for mean, bound in means)]
            )
    return rows


def _group_name(group: Group) -> str:
    return f"mean of {group.count}" if group.name == "all" else f"{group.name}, {group.count}"


def _case_cells(case: Case, columns: tuple[str, ...]) -> list[str]:
    if case.reason:
        return ["failed", *[NONE] * (len(columns) - 1)]
    return [_score(case.values.get(column), equal=case.identical and column.endswith("psnr")) for column in columns]


def _group_cells(group: Group, columns: tuple[str, ...]) -> list[str]:
    return [_score(mean.mean if (mean := group.means[column]) else None) for column in columns]


def _score(value: float | None, *, equal: bool = False) -> str:
    if value is None:
        return "equal" if equal else NONE
    if abs(value) >= 10:
        return f"{value:.4g}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def _bounds(mean: Mean | None) -> tuple[str, str]:
    if mean is None or mean.low is None or mean.high is None:
        return "", ""
    return _score(mean.low), _score(mean.high)


def _flat(case: Case, columns: tuple[str, ...]) -> Mapping[str, Cell]:
    flat: dict[str, Cell] = {"case": case.name, "edit_type": case.edit_type}
    flat |= {"status": "failed" if case.reason else "ok", "reason": case.reason, "identical": case.identical}
    return flat | {column: case.values.get(column) for column in columns}
