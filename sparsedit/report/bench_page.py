"""A bench's `report.html`: its tables, plots and some of its edits as one page that opens offline.

A pure function of records and of the pictures in their runs' folders. Text is escaped by the template engine; the
page's own policy lets nothing run and nothing be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from sparsedit import __version__
from sparsedit.files import write_atomic
from sparsedit.records import Record
from sparsedit.report.bench import Tables
from sparsedit.report.bench_plots import bench_plots
from sparsedit.report.bench_text import EXPLAINED, sections
from sparsedit.report.text import printable
from sparsedit.report.thumbnails import strips


def write_bench_page(folder: Path, content: str) -> Path:
    """Write a page as report.html into a run's folder, and return its path."""
    path = folder / "report.html"
    write_atomic(path, content.encode())
    return path


def bench_page(shown: Tables, records: Sequence[Record], runs: Sequence[Path], title: str, machine: str) -> str:
    """The page as HTML; `runs` are the folders that may have pictures of the records."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["printable"] = printable
    return environment.get_template("bench.html.j2").render(
        title=title,
        tables=list(sections(shown)),
        plots=bench_plots(records),
        strips=strips(records, runs),
        notes=(*shown.notes, EXPLAINED),
        machine=machine,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        version=__version__,
    )
