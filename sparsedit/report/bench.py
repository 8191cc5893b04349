"""From a bench's records to its tables: every way of every configuration, over all edits and by type.

Values of one edit are what its record holds; a mean has the bootstrap interval of its edits, and says how many have no
value. An edit that a thin way ran densely, because it is large, counts in speed and multiply-adds as the dense one that
it is, and has no fidelity, being the dense edit made again (to the bit, or to a rounding of the machine's). Knows no
models; a pure function of records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedit.errors import InputError
from sparsedit.metrics.comparison import Case, Comparison, Group
from sparsedit.metrics.interval import Mean
from sparsedit.published import Figures, PublishedRow, load_published
from sparsedit.records import Record
from sparsedit.report.difference import compare_runs
from sparsedit.report.summary import summarise

FIDELITY = ("inside_psnr", "inside_ssim", "inside_lpips", "whole_psnr")
COSTS = ("macs_ratio", "speedup", "first_speedup", "seconds")
TRUTH = ("truth_psnr", "truth_ssim")
QUALITY = ("psnr", "ssim", "lpips", "mse", "clip", "clip_edited", "structure")
COLUMNS = (*FIDELITY, *COSTS, *TRUTH, *QUALITY)
"""`seconds` are those of the n-th edit, `truth_*` inside the mask against what the edit should have made, the last
seven against the original by protocol pnp-v1."""

FACTS = ("group", "cell", "model", "track", "way", "count", "failed", "dense", "touched")
"""What a line says beside its means."""

Key = tuple[str, str, str, str]
"""Cell, model, track, way."""


@dataclass(frozen=True)
class Line:
    """One way of one configuration over a group of edits.

    `count` edits were done, `failed` were not; of those done `dense` ran densely instead, and `touched` changed pixels
    outside their mask.
    """

    group: str
    cell: str
    model: str
    track: str
    way: str
    count: int
    failed: int
    dense: int
    touched: int
    means: Mapping[str, Mean | None]
    left_out: Mapping[str, int]

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.cell, self.way)))


@dataclass(frozen=True)
class Tables:
    """Everything that a bench shows. `lines` come by group, and within one by configuration and way.

    `differences` are, for each way, those to a baseline's records of the same edits.
    """

    lines: tuple[Line, ...]
    columns: tuple[str, ...]
    published: tuple[PublishedRow, ...]
    notes: tuple[str, ...]
    differences: Mapping[str, Comparison]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.group for line in self.lines))

    def document(self) -> dict[str, Any]:
        """The tables as JSON."""
        return {
            "lines": [_line_entry(line) for line in self.lines],
            "published": [_published_entry(row) for row in self.published],
            "differences": {name: comparison.document() for name, comparison in self.differences.items()},
            "notes": list(self.notes),
        }


def is_bench(records: Iterable[Record]) -> bool:
    """Whether these are records of a bench."""
    return any("bench" in record for record in records)


def merged(runs: Sequence[tuple[str, Sequence[Record]]]) -> tuple[list[Record], list[str]]:
    """The records of several runs, each named, in order -> every id once, and notes on those that came again.

    Of records with one id the first done one is taken.
    """
    taken: dict[str, tuple[str, Record]] = {}
    again: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for run, records in runs:
        for record in records:
            first_run, first = taken.setdefault(record["id"], (run, record))
            if first is record:
                continue
            again[first_run, run].append(_result(first) == _result(record))
            if first["status"] != "ok" and record["status"] == "ok":
                taken[record["id"]] = (run, record)
    return [record for _, record in taken.values()], [_again(*runs, same) for runs, same in again.items()]


def tables(records: Sequence[Record], baseline: Sequence[Record] | None = None, notes: Sequence[str] = ()) -> Tables:
    """The tables of a bench's records, with paired differences to those of a `baseline`.

    Raises InputError for records that are of no bench, and for a baseline that has no edit in common with them.
    """
    by_key = _by_key(records)
    cases = {key: tuple(map(_case, own)) for key, own in by_key.items()}
    known = {name for own in cases.values() for case in own for name, value in case.values.items() if value is not None}
    columns = tuple(column for column in COLUMNS if column in known)
    comparisons = {key: Comparison("means", columns, own) for key, own in cases.items()}
    lines = [line for key, comparison in comparisons.items() for line in _lines(key, comparison)]
    order = {group: place for place, group in enumerate(dict.fromkeys(line.group for line in lines))}
    return Tables(
        lines=tuple(sorted(lines, key=lambda line: order[line.group])),
        columns=columns,
        published=tuple(_published(records)),
        notes=(*notes, *_notes(records)),
        differences={} if baseline is None else _differences(by_key, _by_key(baseline)),
    )


def values(record: Record) -> dict[str, float | None]:
    """A record's values under `COLUMNS`."""
    [row] = summarise([record]).rows
    scores, quality = record.get("fidelity") or {}, record.get("quality") or {}
    inside, truth = scores.get("inside") or {}, (record.get("truth") or {}).get("inside") or {}
    fidelity: dict[str, float | None] = {
        "inside_psnr": row.inside_psnr,
        "inside_ssim": inside.get("ssim"),
        "inside_lpips": inside.get("lpips"),
        "whole_psnr": row.whole_psnr,
    }
    if _ran_densely(record):
        fidelity = dict.fromkeys(fidelity)
    costs = {
        "macs_ratio": 1.0 if row.way == "dense" else row.macs_ratio,
        "speedup": row.speedup,
        "first_speedup": None if _asked(record) == "dense" else row.first_speedup,
        "seconds": row.sparse_s,
    }
    truths = {"truth_psnr": truth.get("psnr"), "truth_ssim": truth.get("ssim")}
    return fidelity | costs | truths | {name: quality.get(name) for name in QUALITY}


def _by_key(records: Sequence[Record]) -> dict[Key, list[Record]]:
    by_key: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        if "bench" not in record:
            raise InputError(f"record {record['id']} is of no bench: nothing says which way was asked for")
        bench = record["bench"]
        by_key[bench["cell"], record["model"], bench["track"], bench["way"]].append(record)
    return by_key


def _asked(record: Record) -> str:
    """The way that was asked for; outside of benches records know the one that was taken alone."""
    return str((record.get("bench") or record)["way"])


def _ran_densely(record: Record) -> bool:
    """Whether another way was asked for than the dense one that was taken."""
    return record["way"] == "dense" != _asked(record)


def _case(record: Record) -> Case:
    scores = record.get("fidelity") or {}
    dense = _ran_densely(record)
    return Case(
        name=f"{record['case']}/{record['variant']}",
        values=values(record) if record["status"] == "ok" else {},
        edit_type=record.get("edit_type"),
        equal=tuple(
            f"{region}_psnr" for region in ("inside", "whole") if dense or (scores.get(region) or {}).get("identical")
        ),
        reason=None if record["status"] == "ok" else str(record["reason"]),
        entry={"dense": dense, "touched": _touched(record)},
    )


def _lines(key: Key, comparison: Comparison) -> Iterator[Line]:
    cell, model, track, way = key
    groups: tuple[Group, ...] = comparison.groups()
    for place, group in enumerate(groups):
        own = [case for case in comparison.cases if place == 0 or case.edit_type == group.name]
        yield Line(
            group=group.name,
            cell=cell,
            model=model,
            track=track,
            way=way,
            count=group.count,
            failed=sum(case.reason is not None for case in own),
            dense=sum(case.entry["dense"] for case in own if case.reason is None),
            touched=sum(case.entry["touched"] for case in own),
            means=group.means,
            left_out=group.left_out,
        )


def _differences(run: Mapping[Key, list[Record]], baseline: Mapping[Key, list[Record]]) -> dict[str, Comparison]:
    """Of each way that both have. Configurations are paired by their names, or each with the only one there is."""
    alone = all(len({key[:2] for key in keys}) == 1 for keys in (run, baseline))
    found = {}
    for key, records in run.items():
        partner = next((other for other in baseline if other[2:] == key[2:] and (alone or other[:2] == key[:2])), None)
        if partner is not None:
            found[" ".join(filter(None, (key[0], key[3])))] = compare_runs(baseline[partner], records)
    if not found:
        raise InputError("the baseline has no configuration, track and way in common with these records")
    return found


def _published(records: Sequence[Record]) -> Iterator[PublishedRow]:
    """Published rows that can stand beside: those of the same cases, and whatever compares an edit with a dense one.

    Scores against the original stand only beside those of the same suite.
    """
    suites, cases = ({record[key] for record in records} for key in ("suite", "case"))
    for row in load_published():
        if row.case in cases and "sige" in suites:
            yield row
        elif row.figures == Figures() or row.stage != "total":
            continue
        elif row.case == "PIE-Bench":
            if "pie" in suites:
                yield row
        elif row.figures.speedup is not None or row.figures.psnr is not None:
            yield row


def _notes(records: Sequence[Record]) -> Iterator[str]:
    missing: dict[str, dict[str, None]] = {}
    for record in records:
        for name, reason in (record.get("missing") or {}).items():
            missing.setdefault(reason, {})[name] = None
    yield from (f"{', '.join(names)}: {reason}" for reason, names in missing.items())
    changed = sum(bool(record.get("prompt_changed")) and not _same_context(record) for record in records)
    if changed:
        yield (
            f"{changed} of {len(records)} edits run beside an original of another prompt: the dense edit's background "
            "moves with the prompt, theirs stays, so PSNR is low (--context self runs the original under the edit's)"
        )
    touched = sum(_touched(record) for record in records)
    if touched:
        yield f"in {touched} edits pixels outside the mask changed"
    failures: dict[str, int] = defaultdict(int)
    for record in records:
        if record["status"] != "ok":
            failures[f"{record['bench']['way']}: {record['reason']}"] += 1
    yield from (f"{count} failed, {reason}" for reason, count in failures.items())


def _touched(record: Record) -> bool:
    return (record.get("fidelity") or {}).get("outside_equal") is False


def _same_context(record: Record) -> bool:
    return record["original_prompt"] == record["edit_prompt"] or record["bench"]["way"] not in ("warm", "alongside")


def _result(record: Record) -> tuple[Any, ...]:
    """What of a record does not depend on the machine's speed."""
    return tuple(record.get(key) for key in ("status", "way", "fidelity", "quality"))


def _again(first: str, run: str, same: Sequence[bool]) -> str:
    where = f"{run} again" if first == run else f"{first} and {run}"
    differ = same.count(False)
    rest = "all with the same scores" if not differ else f"{differ} of them with other scores"
    return f"{len(same)} records are in {where}, {rest}; the first is taken"


def _line_entry(line: Line) -> dict[str, Any]:
    means = {
        name: mean and {"mean": mean.mean, "low": mean.low, "high": mean.high, "count": mean.count}
        for name, mean in line.means.items()
    }
    named = {fact: getattr(line, fact) for fact in FACTS}
    return named | {"left_out": dict(line.left_out), "means": means}


def _published_entry(row: PublishedRow) -> dict[str, Any]:
    entry = row.model_dump()
    return entry | {"figures": {name: value for name, value in entry["figures"].items() if value is not None}}
