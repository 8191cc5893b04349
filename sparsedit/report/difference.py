"""Two runs side by side: what changed for every edit that both have, as differences run less baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sparsedit.errors import InputError
from sparsedit.metrics.comparison import Case, Comparison
from sparsedit.records import Record
from sparsedit.report.summary import Row, summarise
from sparsedit.suites.edit import DERIVED

FIGURES = ("inside_psnr", "whole_psnr", "sparse_s", "speedup", "macs_ratio")
_QUALITY = ("psnr", "ssim", "lpips", "mse", "clip", "clip_edited", "structure")

COLUMNS = (*FIGURES, *(f"quality_{name}" for name in _QUALITY))


def compare_runs(baseline: Sequence[Record], run: Sequence[Record]) -> Comparison:
    """The paired differences of two runs' records.

    Edits are paired by case and variant, and by way where a run has them in several, those of a bench by configuration
    too. Raises InputError when that does not tell them apart, or nothing is in both.
    """
    by_way = any(max(Counter(map(_name, records)).values(), default=0) > 1 for records in (baseline, run))
    before, after = (_keyed(records, by_way=by_way) for records in (baseline, run))
    both = [name for name in after if name in before]
    if not both:
        raise InputError("the two runs have no edit in common: none has the same case and variant")
    return Comparison(
        what="differences, run less baseline",
        columns=tuple(name for name in COLUMNS if any(_has(name, before[key], after[key]) for key in both)),
        cases=tuple(_case(key, before[key], after[key], by_way=by_way) for key in both),
        only_a=tuple(name for name in before if name not in after),
        only_b=tuple(name for name in after if name not in before),
    )


def _case(name: str, before: Record, after: Record, *, by_way: bool) -> Case:
    failed = [which for which, record in (("baseline", before), ("run", after)) if record["status"] != "ok"]
    figures = _figures(before), _figures(after)
    return Case(
        name=name,
        values={key: _difference(figures[0][key], figures[1][key]) for key in COLUMNS},
        edit_type=after.get("edit_type"),
        way=_way(after) if by_way else None,
        reason=f"it failed in the {' and the '.join(failed)}" if failed else None,
        entry={"baseline": figures[0], "run": figures[1]},
    )


def _figures(record: Record) -> dict[str, float | None]:
    [row] = summarise([record]).rows
    quality: Mapping[str, Any] = record.get("quality") or {}
    return {name: _of_row(row, name) for name in FIGURES} | {f"quality_{name}": quality.get(name) for name in _QUALITY}


def _of_row(row: Row, name: str) -> float | None:
    value: float | None = getattr(row, name)
    return value


def _has(name: str, before: Record, after: Record) -> bool:
    return _difference(_figures(before)[name], _figures(after)[name]) is not None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _keyed(records: Sequence[Record], *, by_way: bool) -> dict[str, Record]:
    keyed: dict[str, Record] = {}
    for record in records:
        name = _name(record) + (f" ({_way(record)})" if by_way else "")
        if name in keyed:
            raise InputError(f"a run has {name} more than once; compare runs that have every edit once a way")
        keyed[name] = record
    return keyed


def _way(record: Record) -> str:
    """The way; of a bench the one asked for, for steps skipped and crops are dense edits, and its configuration."""
    bench = record.get("bench")
    if bench is None:
        return str(record.get("way"))
    track = "" if bench["track"] == DERIVED else bench["track"]
    return " ".join(filter(None, (bench["cell"], bench["way"], track)))


def _name(record: Record) -> str:
    return f"{record['case']}/{record['variant']}"
