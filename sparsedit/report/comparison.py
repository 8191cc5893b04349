"""A comparison for a terminal and as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sparsedit.metrics.comparison import Case, Comparison, Group
from sparsedit.metrics.interval import Mean
from sparsedit.report.numbers import NONE
from sparsedit.report.table import blocks, cells, grid
from sparsedit.report.text import Cell, markdown_text, printable, to_csv, to_latex, to_markdown

_SHOWN_NAMES = 10


def comparison_view(comparison: Comparison, width: int) -> RenderableType:
    """Everything of a comparison for a terminal of `width` columns; columns that do not fit go into further tables."""
    parts: list[RenderableType] = [Text(printable(comparison.what), style="bold")]
    headings = [column.replace("_", "\n", 1) for column in comparison.columns]
    lines = list(_lines(comparison))
    values = zip(headings, *(values for _, values, _ in lines), strict=True)
    for block in blocks(["case", *(name for name, _, _ in lines)], list(values), width):
        table = grid([("case", "left"), *((headings[place], "right") for place in block)])
        for place, (name, own, style) in enumerate(lines):
            if place == len(comparison.cases):
                table.add_section()
            table.add_row(*cells([name, *(own[column] for column in block)]), style=style)
        parts += [table, Text()]
    parts += [Text(printable(note), style="yellow") for note in notes(comparison)]
    return Lines(*parts)


def _lines(comparison: Comparison) -> Iterator[tuple[str, list[str], str]]:
    """The lines of the table: a name, its values, and a style."""
    columns = comparison.columns
    for case in comparison.cases:
        yield printable(case.name), _case_cells(case, columns), "red" if case.reason else ""
    for group in comparison.groups() if len(comparison.cases) > 1 else ():
        yield _group_name(group), _group_cells(group, columns), "bold"
        bounds = [_bounds(group.means[column]) for column in columns]
        for label, side in (("  95 % from", 0), ("  to", 1)) if any(map(any, bounds)) else ():
            yield label, [bound[side] for bound in bounds], "dim"


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
    """What a reader must know beside the numbers; what is said of several values or cases is said once."""
    said = [f"{', '.join(names)}: {why}" for why, names in _by_reason(comparison.missing.items()).items()]
    everything = comparison.groups()[0]
    own = [(case.name, case.reason) for case in comparison.cases if case.reason]
    for case in comparison.cases:
        reasons = {name: why for name, why in case.missing.items() if name not in comparison.missing}
        own += [(case.name, f"{', '.join(names)}: {why}") for why, names in _by_reason(reasons.items()).items()]
    said += [f"{_some(names)}: {why}" for why, names in _by_reason(own).items()]
    if left_out := {column: count for column, count in everything.left_out.items() if 0 < count < everything.count}:
        counts = ", ".join(f"{column} {count}" for column, count in left_out.items())
        said.append(f"left out of the mean, for want of a value: {counts}")
    if everything.identical and len(comparison.cases) > 1:
        said.append(f"identical, so without a PSNR: {everything.identical} of {everything.count}")
    said += [f"only in {side}: {_some(names)}" for side, names in _strangers(comparison) if names]
    return said


def _strangers(comparison: Comparison) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("A", comparison.only_a), ("B", comparison.only_b)


def _by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Who has which reason: reason -> names."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    return names


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


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
    return [_score(case.values.get(column), equal=column in case.equal) for column in columns]


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
