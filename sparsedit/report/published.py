"""Published figures beside our counts, system by system: what both say, how far apart, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparsedit.report.numbers import figure, giga, percent, times
from sparsedit.report.table import WIDE, cells, grid
from sparsedit.report.text import Cell, markdown_text, printable, to_csv, to_markdown

if TYPE_CHECKING:
    from sparsedit.profiling.published import Beside

Entry = Mapping[str, Any]

HEADINGS = (
    "model", "case", "edited", "stage", "GMACs published", "ours", "difference", "attention too", "fewer published",
    "ours", "ms published",
)  # fmt: skip
# The columns of a narrow terminal, the second line of each below the first.
_STACKED = ((0,), (1, 2), (3,), (4, 5), (6, 7), (8, 9), (10,))
_STACKED_HEADINGS = ("model", "case\nedited", "stage", "GMACs\nours", "difference\nattention too", "fewer\nours", "ms")
_COSTS = ("speedup", "macs_ratio", "fps")


def published_entries(found: Sequence[Beside]) -> list[dict[str, Any]]:
    """Every row about costs as plain values, with our count, the differences and the ratios, for JSON.

    `difference` is ours less the published count, as a share of it; ratios are of the same table's dense row.
    """
    return [_entry(beside, found) for beside in found if _is_cost(beside)]


def published_csv(entries: Sequence[Entry]) -> str:
    """One line per row."""

    def flat(entry: Entry) -> dict[str, Cell]:
        width, height = entry["size"] or (None, None)
        costs = {f"published_{name}": _interval(entry["figures"].get(name)) for name in _COSTS}
        plain = {key: value for key, value in entry.items() if key not in ("size", "figures")}
        return plain | {"width": width, "height": height} | costs

    return to_csv([flat(entry) for entry in entries])


def published_markdown(entries: Sequence[Entry], policy: str) -> str:
    """A section for every system."""
    parts = []
    for system in _systems(entries):
        parts.append(f"**{markdown_text(_title(system[0]))}**\n")
        if rows := [_cells(entry) for entry in system if entry["gmacs"]]:
            parts.append(to_markdown(HEADINGS, rows))
        parts.append("".join(f"- {markdown_text(line)}\n" for line in (*_others(system), *_about(system[0]))))
    return "\n".join([*parts, "".join(f"- {markdown_text(note)}\n" for note in published_notes(entries, policy))])


def published_view(entries: Sequence[Entry], policy: str, width: int) -> RenderableType:
    """The same for a terminal of `width` columns, 80 and more."""
    parts: list[RenderableType] = []
    for system in _systems(entries):
        parts.append(Text(printable(_title(system[0])), style="bold"))
        if any(entry["gmacs"] for entry in system):
            parts.append(_table([entry for entry in system if entry["gmacs"]], width))
        parts += [Text(printable(line)) for line in _others(system)]
        parts += [Text(printable(line), style="dim") for line in _about(system[0])]
        parts.append(Text())
    return Group(*parts, *(Text(printable(note)) for note in published_notes(entries, policy)))


def published_notes(entries: Sequence[Entry], policy: str) -> Iterator[str]:
    """How our counts were made, and why some are missing."""
    yield f"published: the system's own figures; ours: counted, not run, with policy {policy}"
    yield (
        "difference: of our convolutions and linear layers from the published count; attention too: with the products "
        "of attention added to ours"
    )
    for reason in dict.fromkeys(entry["missing"] for entry in entries if entry["gmacs"] and entry["missing"]):
        yield f"not counted here: {reason}"


def _is_cost(beside: Beside) -> bool:
    row = beside.row
    return bool(row.gmacs or row.ms or any(getattr(row.figures, name) for name in _COSTS))


def _entry(beside: Beside, found: Sequence[Beside]) -> dict[str, Any]:
    row, ours = beside.row, beside.ours
    entry = row.model_dump()
    entry["figures"] = {name: value for name, value in entry["figures"].items() if value is not None}
    macs = ours.macs if ours else None
    both = ours.macs + ours.attention_macs if ours else None
    dense = next((other for other in found if _is_dense_of(other, beside)), None)
    return entry | {
        "our_macs": macs,
        "our_attention_macs": ours.attention_macs if ours else None,
        "difference": _difference(macs, row.gmacs),
        "difference_with_attention": _difference(both, row.gmacs),
        "macs_ratio": _ratio(dense.row.gmacs, row.gmacs) if dense else None,
        "our_macs_ratio": _ratio(dense.ours.macs if dense.ours else None, macs) if dense else None,
        "missing": beside.reason,
    }


def _is_dense_of(other: Beside, beside: Beside) -> bool:
    same = ("system", "source", "model", "stage")
    is_other_dense = other.row.case == "dense" != beside.row.case
    return is_other_dense and all(getattr(other.row, key) == getattr(beside.row, key) for key in same)


def _difference(count: int | None, gmacs: float | None) -> float | None:
    return count / (gmacs * 1e9) - 1 if count and gmacs else None


def _ratio(dense: float | None, sparse: float | None) -> float | None:
    return dense / sparse if dense and sparse else None


def _systems(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries of each table, in order."""
    tables: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        tables.setdefault((entry["system"], entry["source"]), []).append(entry)
    return list(tables.values())


def _title(entry: Entry) -> str:
    return f"{entry['system']} ({entry['year']}), published"


def _about(entry: Entry) -> Iterator[str]:
    """Where a table's figures come from, what they count and what they leave out."""
    yield f"source: {entry['source']}{_conditions(entry)}"
    if entry["counts"]:
        yield f"counts: {entry['counts']}"
    if entry["leaves_out"]:
        yield f"leaves out: {entry['leaves_out']}"


def _others(entries: Sequence[Entry]) -> Iterator[str]:
    """Rows without multiply-adds, a line each."""
    for entry in entries:
        if entry["gmacs"]:
            continue
        said = [f"{figure(entry['ms'])} ms"] if entry["ms"] else []
        said += [f"{name.replace('_', ' ')} {_interval(value)}" for name, value in entry["figures"].items()]
        named = ", ".join((entry["model"], entry["case"], entry["stage"]))
        note = f"; {entry['note']}" if entry["note"] else ""
        yield f"{named}: {', '.join(said)}{_conditions(entry)}{note}"


def _conditions(entry: Entry) -> str:
    """Hardware and dtype, as the end of a line."""
    on = ", ".join(part for part in (entry["hardware"], entry["dtype"]) if part)
    return f"; on {on}" if on else ""


def _table(entries: Sequence[Entry], width: int) -> Table:
    wide = width >= WIDE
    groups: Sequence[Sequence[int]] = [(index,) for index in range(len(HEADINGS))] if wide else _STACKED
    headings = HEADINGS if wide else _STACKED_HEADINGS
    table = grid((name, "left" if group[0] < 4 else "right") for name, group in zip(headings, groups, strict=True))
    for entry in entries:
        values = cells(_cells(entry))
        for group in groups:
            for index in group[1:]:
                values[index].stylize("dim")
        table.add_row(*(Text("\n").join(values[index] for index in group) for group in groups))
    return table


def _cells(entry: Entry) -> list[str]:
    """A row under `HEADINGS`."""
    return [
        entry["model"],
        entry["case"],
        percent(entry["edit_ratio"]),
        entry["stage"],
        figure(entry["gmacs"]),
        giga(entry["our_macs"]),
        _signed(entry["difference"]),
        _signed(entry["difference_with_attention"]),
        times(entry["macs_ratio"]),
        times(entry["our_macs_ratio"]),
        figure(entry["ms"]),
    ]


def _interval(ends: Sequence[float] | None) -> str | None:
    if ends is None:
        return None
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _signed(share: float | None) -> str:
    """A difference in percent, with as many digits as tell it from nothing."""
    if share is None:
        return "–"
    return f"{100 * share:+.{2 if abs(share) < 0.01 else 0}f}%".replace("-", "−")
