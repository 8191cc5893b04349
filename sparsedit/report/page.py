"""`report.html`: a run as one page that opens offline, its pictures inside it while they are few.

A pure function of records, environment and the pictures in the run's folder. Text is escaped by the template engine;
pictures are taken from the run's own folder alone, whatever its records say.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from sparsedit import __version__
from sparsedit.files import file_fault, write_atomic
from sparsedit.records import Record
from sparsedit.report.numbers import figure, percent, times
from sparsedit.report.summary import Row, Summary, summarise
from sparsedit.report.text import HEADINGS, STAGE_HEADINGS, printable, row_cells, stage_cells

PICTURES = {
    "original": "original",
    "edited": "edited, as given",
    "mask": "what may change",
    "dense": "dense edit",
    "sparse": "sparse edit",
    "heat": "sparse against dense, ×4",
}
"""The pictures of an edit, by file name, with their captions, in the order of the page."""

MAX_EMBEDDED = 60
MAX_EMBEDDED_BYTES = 40_000_000


@dataclass(frozen=True)
class Picture:
    """A picture on the page; `source` is a data URI or a path relative to the page."""

    caption: str
    source: str


@dataclass(frozen=True)
class Edit:
    """One case and variant on the page."""

    row: Row
    original_prompt: str
    edit_prompt: str
    reason: str
    pictures: tuple[Picture, ...]

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


def write_page(folder: Path, records: Sequence[Record], environment: Mapping[str, Any] | None = None) -> Path:
    """Write the page of a run into its folder and return its path.

    Raises InputError when it cannot be written.
    """
    path = folder / "report.html"
    write_atomic(path, render(folder, records, environment).encode())
    return path


def render(folder: Path, records: Sequence[Record], environment: Mapping[str, Any] | None = None) -> str:
    """The page as HTML; `folder` is the run's, whose pictures it shows."""
    summary = summarise(records, environment)
    found = [_pictures(folder, record) for record in records]
    files = [path for pictures in found for path in pictures.values()]
    embed = len(files) <= MAX_EMBEDDED and sum(path.stat().st_size for path in files) <= MAX_EMBEDDED_BYTES
    edits = [
        Edit(
            row,
            record.get("original_prompt") or "",
            record.get("edit_prompt") or "",
            record.get("reason") or "",
            tuple(Picture(PICTURES[name], _source(path, folder, embed=embed)) for name, path in pictures.items()),
        )
        for record, row, pictures in zip(records, summary.rows, found, strict=True)
    ]
    return _template().render(
        summary=summary,
        edits=edits,
        typical=_typical(summary),
        headings=HEADINGS,
        stage_headings=STAGE_HEADINGS,
        version=__version__,
    )


def _pictures(folder: Path, record: Record) -> dict[str, Path]:
    """The record's pictures that exist inside the run's folder, links followed."""
    root = (folder / "images").resolve()
    place = root / str(record["case"]) / str(record["variant"])
    paths = {name: (place / f"{name}.png").resolve() for name in PICTURES}
    return {name: path for name, path in paths.items() if path.is_relative_to(root) and not file_fault(path)}


def _source(path: Path, folder: Path, *, embed: bool) -> str:
    if embed:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return quote(path.relative_to(folder.resolve()).as_posix())


def _typical(summary: Summary) -> Row | None:
    """The row whose figures head the page: the mean under the same prompt, else the first there is."""
    return next((row for row in (*summary.means, *summary.rows) if row in summary.means or row.thin), None)


def _template() -> jinja2.Template:
    # Not select_autoescape: it goes by the ending, and would leave .j2 unescaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "printable": printable,
        "row_cells": row_cells,
        "stage_cells": stage_cells,
        "figure": figure,
        "percent": percent,
        "times": times,
    }
    return environment.get_template("page.html.j2")
