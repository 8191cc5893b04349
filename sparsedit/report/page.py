"""`report.html`: a run as one page that opens offline, its pictures inside it while they are few.

A pure function of records, environment and the pictures in the run's folder. Text is escaped by the template engine;
pictures are taken from the run's own folder alone, whatever its records say. The page's own policy lets nothing run but
its own script, and nothing be fetched but pictures beside it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from sparsedit import __version__
from sparsedit.files import file_fault, write_atomic
from sparsedit.records import Record
from sparsedit.report.case import SCORES, Edit, Picture
from sparsedit.report.numbers import figure, percent, times
from sparsedit.report.plots import plots
from sparsedit.report.summary import Row, Summary, summarise
from sparsedit.report.text import HEADINGS, STAGE_HEADINGS, TEXT_COLUMNS, printable, row_cells, stage_cells

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


def write_page(
    folder: Path, records: Sequence[Record], environment: Mapping[str, Any] | None = None, *, embed: bool | None = None
) -> Path:
    """Write the page of a run into its folder and return its path; `embed` as in `render`.

    Raises InputError when it cannot be written.
    """
    path = folder / "report.html"
    write_atomic(path, render(folder, records, environment, embed=embed).encode())
    return path


def render(
    folder: Path, records: Sequence[Record], environment: Mapping[str, Any] | None = None, *, embed: bool | None = None
) -> str:
    """The page as HTML; `folder` is the run's, whose pictures it shows.

    `embed` says whether they are inside the page or beside it; None puts few inside.
    """
    summary = summarise(records, environment)
    found = [pictures_of(folder, record) for record in records]
    if embed is None:
        embed = _are_few([path for pictures in found for path in pictures.values()])
    edits = [
        Edit(row, record, tuple(_picture(name, path, folder, embed=embed) for name, path in pictures.items()))
        for record, row, pictures in zip(records, summary.rows, found, strict=True)
    ]
    script = _text("page.js")
    return _template().render(
        summary=summary,
        edits=edits,
        plots=plots(summary.rows),
        types=sorted({row.edit_type for row in summary.rows if row.edit_type}),
        ways=sorted({row.way for row in summary.rows if row.way}),
        typical=_typical(summary),
        headings=HEADINGS,
        text_columns=TEXT_COLUMNS,
        stage_headings=STAGE_HEADINGS,
        score_names=SCORES,
        style=_text("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


def _text(name: str) -> Markup:
    """A part of the page that lies beside this module."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _are_few(files: Sequence[Path]) -> bool:
    return len(files) <= MAX_EMBEDDED and sum(path.stat().st_size for path in files) <= MAX_EMBEDDED_BYTES


def pictures_of(folder: Path, record: Record) -> dict[str, Path]:
    """The record's pictures that exist inside the run's folder, links followed."""
    root = (folder / "images").resolve()
    place = root / str(record["case"]) / str(record["variant"])
    paths = {name: (place / f"{name}.png").resolve() for name in PICTURES}
    return {name: path for name, path in paths.items() if path.is_relative_to(root) and not file_fault(path)}


def _picture(name: str, path: Path, folder: Path, *, embed: bool) -> Picture:
    if embed:
        source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    else:
        source = quote(path.relative_to(folder.resolve()).as_posix())
    return Picture(name, PICTURES[name], source)


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
