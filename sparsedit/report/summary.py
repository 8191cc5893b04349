"""From records to what every report shows: rows, means, stages and notes.

All derived numbers are made here, once, so that terminal, CSV, Markdown and page cannot disagree. A mean line holds
the means of its rows, and its ratios are the ratios of those means: what all its edits together saved.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedit.records import STAGES, Record
from sparsedit.report.numbers import size_of

THIN_WAYS = ("alongside", "warm", "cold")


@dataclass(frozen=True)
class Row:
    """One edit, or the mean of several. Multiply-adds are the UNet's, of all its calls; seconds those of all stages.

    `dense_macs` is the recording's where no dense edit ran: the two passes are the same work. PSNR is to the dense
    edit, in dB, None where it does not exist; `identical` tells the case in which it would be infinite.
    """

    name: str
    edit_type: str | None = None
    way: str | None = None
    failed: bool = False
    prompt_changed: bool = False
    edit_ratio: float | None = None
    dense_macs: float | None = None
    sparse_macs: float | None = None
    dense_s: float | None = None
    record_s: float | None = None
    sparse_s: float | None = None
    inside_psnr: float | None = None
    whole_psnr: float | None = None
    identical: bool = False

    @property
    def thin(self) -> bool:
        """Whether the sparse engine ran; it does not for an empty edit, a huge one or a failed one."""
        return not self.failed and self.way in THIN_WAYS

    @property
    def macs_ratio(self) -> float | None:
        return _ratio(self.dense_macs, self.sparse_macs)

    @property
    def speedup(self) -> float | None:
        """Of the n-th edit, when the original has been recorded."""
        return _ratio(self.dense_s, self.sparse_s)

    @property
    def first_speedup(self) -> float | None:
        """Of the first edit, which pays for the recording; a cold one has none."""
        if self.record_s is None or self.sparse_s is None:
            return None
        return _ratio(self.dense_s, self.record_s + self.sparse_s)

    def entry(self) -> dict[str, Any]:
        """The row's numbers with those derived from them, for JSON."""
        derived = {"macs_ratio": self.macs_ratio, "speedup_nth": self.speedup, "speedup_first": self.first_speedup}
        return dataclasses.asdict(self) | derived


@dataclass(frozen=True)
class StageRow:
    """One stage over all thin edits: medians of its seconds per edit, sums of its multiply-adds."""

    stage: str
    dense_s: float | None
    sparse_s: float | None
    dense_macs: int | None
    sparse_macs: int | None

    @property
    def speedup(self) -> float | None:
        return _ratio(self.dense_s, self.sparse_s)

    @property
    def macs_ratio(self) -> float | None:
        return _ratio(self.dense_macs, self.sparse_macs)


@dataclass(frozen=True)
class Summary:
    """Everything that a report shows of some records."""

    title: str
    rows: tuple[Row, ...]
    means: tuple[Row, ...]
    stages: tuple[StageRow, ...]
    notes: tuple[str, ...]
    machine: str

    @property
    def done(self) -> int:
        return sum(not row.failed for row in self.rows)


def summarise(records: Sequence[Record], environment: Mapping[str, Any] | None = None) -> Summary:
    """The summary of a run's records; `environment` is its environment.json, None when that is not known."""
    rows = tuple(_row(record) for record in records)
    thin = [record for record, row in zip(records, rows, strict=True) if row.thin]
    return Summary(
        title=_title(records),
        rows=rows,
        means=tuple(_means(rows)),
        stages=tuple(_stage_row(stage, thin) for stage in STAGES if any(stage in record["stages"] for record in thin)),
        notes=tuple(_notes(records, rows)),
        machine=_machine(records, environment or {}),
    )


def stage_seconds(record: Record, stage: str, kind: str) -> float | None:
    """Seconds of a stage in the record's pass of that kind; None where it did not run."""
    samples = _entry(record, stage, kind).get("seconds")
    return sum(samples) if samples else None


def stage_macs(record: Record, stage: str, kind: str) -> int | None:
    """Multiply-adds of a stage; a dense pass that was not run counts what the recording of all its steps did."""
    if kind == "dense" and not _entry(record, stage, kind) and not record.get("dense_steps"):
        kind = "record"
    return _entry(record, stage, kind).get("macs") or None


def _entry(record: Record, stage: str, kind: str) -> Mapping[str, Any]:
    return (record.get("stages", {}).get(stage) or {}).get(kind) or {}


def _row(record: Record) -> Row:
    # An edit that changed nothing has no inside, and its whole compares the original with its own dense edit.
    scores = {} if record.get("way") == "none" else record.get("fidelity") or {}
    inside, whole = scores.get("inside") or {}, scores.get("whole") or {}
    total = record.get("total") or {}
    return Row(
        name=f"{record['case']}/{record['variant']}",
        edit_type=record.get("edit_type"),
        way=record.get("way"),
        failed=record["status"] != "ok",
        prompt_changed=bool(record.get("prompt_changed")),
        edit_ratio=record.get("edit_ratio"),
        dense_macs=stage_macs(record, "unet", "dense"),
        sparse_macs=stage_macs(record, "unet", "sparse"),
        dense_s=total.get("dense_s"),
        record_s=total.get("record_s"),
        sparse_s=total.get("sparse_s"),
        inside_psnr=inside.get("psnr"),
        whole_psnr=whole.get("psnr"),
        identical=bool(inside.get("identical")),
    )


def _means(rows: Sequence[Row]) -> Iterable[Row]:
    """A mean per kind of prompt: a dense edit under another prompt changes the background too, and scores apart."""
    thin = [row for row in rows if row.thin]
    if len(thin) < 2:
        return
    for changed, label in ((False, "same prompt"), (True, "new prompt")):
        group = [row for row in thin if row.prompt_changed == changed]
        if group:
            yield _mean(f"mean of {len(group)}, {label}", changed, group)


def _mean(name: str, changed: bool, rows: Sequence[Row]) -> Row:
    # Where only some rows have a dense edit, means over different rows would make a false ratio.
    timed = [row for row in rows if row.dense_s is not None] or rows
    return Row(
        name=name,
        prompt_changed=changed,
        edit_ratio=_average(rows, lambda row: row.edit_ratio),
        dense_macs=_average(rows, lambda row: row.dense_macs),
        sparse_macs=_average(rows, lambda row: row.sparse_macs),
        dense_s=_average(timed, lambda row: row.dense_s),
        record_s=_average(timed, lambda row: row.record_s),
        sparse_s=_average(timed, lambda row: row.sparse_s),
        inside_psnr=_average(rows, lambda row: row.inside_psnr),
        whole_psnr=_average(rows, lambda row: row.whole_psnr),
        identical=all(row.identical for row in rows),
    )


def _average(rows: Sequence[Row], value: Callable[[Row], float | None]) -> float | None:
    known = [number for row in rows if (number := value(row)) is not None]
    return statistics.fmean(known) if known else None


def _stage_row(stage: str, records: Sequence[Record]) -> StageRow:
    def median(kind: str) -> float | None:
        known = [number for record in records if (number := stage_seconds(record, stage, kind)) is not None]
        return statistics.median(known) if known else None

    counts = [(stage_macs(record, stage, "dense"), stage_macs(record, stage, "sparse")) for record in records]
    both = [(dense, sparse) for dense, sparse in counts if dense and sparse]
    dense_macs, sparse_macs = (sum(column) for column in zip(*both, strict=True)) if both else (None, None)
    return StageRow(stage, median("dense"), median("sparse"), dense_macs, sparse_macs)


def _notes(records: Sequence[Record], rows: Sequence[Row]) -> Iterable[str]:
    """What a reader must know beside the numbers, each note once."""
    missing: dict[str, dict[str, None]] = {}  # reason -> names, each once, in order
    for record, row in zip(records, rows, strict=True):
        if row.failed:
            yield f"{row.name} failed: {record.get('reason')}"
        elif record.get("reason"):
            yield f"{row.name}: {record['reason']}"
        if (record.get("fidelity") or {}).get("outside_equal") is False:
            yield f"{row.name}: pixels outside its mask changed"
        for name, reason in (record.get("missing") or {}).items():
            missing.setdefault(reason, {})[name] = None
    yield from dict.fromkeys(_few(record) for record in records if record.get("dense_steps"))
    if any(row.prompt_changed and row.way != "cold" and row.inside_psnr is not None for row in rows):
        yield "* the prompt changed: the dense edit's background moves with it, the sparse one's stays, so PSNR is low"
    yield from (f"{', '.join(names)}: {reason}" for reason, names in missing.items())


def _few(record: Record) -> str:
    """Why an edit was dearer or cheaper than others: the steps that were made densely, and who chose them."""
    few = record["dense_steps"]
    did = "made densely, then all of them at the edited sites" if record["way"] == "cold" else "recorded"
    chosen = (
        "" if few["expected"] is None else f" (chosen for {few['fidelity']:g} dB; the table has {few['expected']:g})"
    )
    return f"{record['way']}: {few['count']} of {few['total']} steps {did}{chosen}"


def _title(records: Sequence[Record]) -> str:
    """Model, task, policy and steps, as far as they are the same: 'demo · sdedit · tight · 14 steps'."""
    steps = _distinct(f"{record['steps_run']} steps" for record in records if record.get("steps_run"))
    sizes = _distinct("x".join(map(str, record["size"])) for record in records if record.get("size"))
    named = (_distinct(record.get(key) for record in records) for key in ("model", "task", "policy"))
    return " · ".join(part for part in (*named, sizes, steps) if part)


def _machine(records: Sequence[Record], environment: Mapping[str, Any]) -> str:
    processor = environment.get("processor") or {}
    devices = _distinct(record.get("device") for record in records)
    parts = [gpu["name"] for gpu in environment.get("gpus") or [] if "cuda" in devices][:1]
    parts.append(f"{processor['name']}, {processor['cores']} cores" if processor.get("name") else "")
    parts.append(f"{_distinct(record.get('dtype') for record in records)} on {devices}" if devices else "")
    version = (environment.get("packages") or {}).get("torch")
    parts.append(f"torch {version}" if version else "")
    for key, label in (("peak_bytes", "peak memory"), ("cache_bytes", "cache")):
        known = [count for record in records if (count := (record.get("memory") or {}).get(key))]
        parts.append(f"{label} {size_of(max(known))}" if known else "")
    return " · ".join(part for part in parts if part)


def _distinct(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _ratio(dense: float | None, sparse: float | None) -> float | None:
    return dense / sparse if dense and sparse else None
