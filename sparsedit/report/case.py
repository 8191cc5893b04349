"""One edit on the page: its facts, bars of its seconds, its scores, and the keys by which the table is sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedit.records import STAGES, Record
from sparsedit.report.numbers import figure, percent, times
from sparsedit.report.summary import Row, stage_seconds

SCORES = ("PSNR", "SSIM", "LPIPS", "CLIP", "structure")
_IDENTICAL = 1e9  # of a PSNR that would be infinite: above every other


@dataclass(frozen=True)
class Picture:
    """A picture on the page; `source` is a data URI or a path relative to the page."""

    name: str
    caption: str
    source: str


@dataclass(frozen=True)
class Bar:
    """Some seconds as a share of the longest of their group, in percent."""

    label: str
    kind: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Bars:
    """Bars that may be compared with each other."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Line:
    """Scores of one kind, under `SCORES`."""

    title: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """One case and variant on the page."""

    row: Row
    record: Record
    pictures: tuple[Picture, ...]

    @property
    def original_prompt(self) -> str:
        return self.record.get("original_prompt") or ""

    @property
    def edit_prompt(self) -> str:
        return self.record.get("edit_prompt") or ""

    @property
    def reason(self) -> str:
        return self.record.get("reason") or ""

    @property
    def size(self) -> list[int] | None:
        return self.record.get("size")

    @property
    def facts(self) -> str:
        """What is said beside the edit's name."""
        row = self.row
        parts = [row.edit_type, "failed" if row.failed else row.way]
        if row.edit_ratio is not None:
            parts.append(f"{percent(row.edit_ratio)} edited")
        if row.thin and row.speedup is not None:
            parts.append(f"n-th edit {times(row.speedup)}")
        if row.inside_psnr is not None:
            parts.append(f"{figure(row.inside_psnr)} dB inside")
        return " · ".join(part for part in parts if part)

    @property
    def sort_keys(self) -> list[str | float]:
        """What the table is sorted by, column by column; "" for what does not exist."""
        row = self.row
        psnrs = (row.inside_psnr, row.whole_psnr)
        equal = [_IDENTICAL if psnr is None and row.identical else psnr for psnr in psnrs]
        keys = [row.name, row.edit_type, row.edit_ratio, row.way, row.sparse_macs, row.macs_ratio, row.sparse_s]
        keys += [row.speedup, row.first_speedup, *equal]
        return ["" if key is None else key for key in keys]

    @property
    def bars(self) -> tuple[Bars, ...]:
        """Seconds of the whole edit, then of its stages."""
        row = self.row
        first = row.record_s + row.sparse_s if row.record_s and row.sparse_s else None
        whole = [("dense", "dense", row.dense_s), ("record", "record", row.record_s)]
        whole += [("first edit", "sparse", first), ("n-th edit", "sparse", row.sparse_s)]
        kinds = ("dense", "sparse") if row.thin else ("dense",)
        stages = [
            (f"{stage}, {kind}", kind, stage_seconds(self.record, stage, kind)) for stage in STAGES for kind in kinds
        ]
        groups = (_bars("the whole edit", whole), _bars("stages", stages))
        return tuple(group for group in groups if group.bars)

    @property
    def scores(self) -> tuple[Line, ...]:
        """Against the dense edit, and against the original."""
        fidelity: Mapping[str, Any] = self.record.get("fidelity") or {}
        quality: Mapping[str, Any] = self.record.get("quality") or {}
        lines = (
            ("dense, inside", fidelity.get("inside")),
            ("dense, whole", fidelity.get("whole")),
            (f"original, {quality.get('protocol')}", quality),
        )
        return tuple(Line(title, _score_cells(values)) for title, values in lines if values)


def _bars(title: str, seconds: Iterable[tuple[str, str, float | None]]) -> Bars:
    known = [(label, kind, value) for label, kind, value in seconds if value]
    longest = max((value for _, _, value in known), default=1.0)
    return Bars(title, tuple(Bar(label, kind, value, 100 * value / longest) for label, kind, value in known))


def _score_cells(values: Mapping[str, Any]) -> tuple[str, ...]:
    numbers: Sequence[float | None] = [values.get(name.lower()) for name in SCORES]
    cells = [figure(number) for number in numbers]
    if values.get("psnr") is None and values.get("identical"):
        cells[0] = "equal"
    return tuple(cells)
