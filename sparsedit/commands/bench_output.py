"""A bench's tables on stdout and as a page, for `bench` and for `report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sparsedit.commands.output import print_json, print_text, print_view
from sparsedit.commands.report import Format
from sparsedit.records import SCHEMA, Record
from sparsedit.report.bench import Tables
from sparsedit.report.bench_page import bench_page, write_bench_page
from sparsedit.report.bench_text import bench_csv, bench_latex, bench_markdown, bench_view
from sparsedit.report.summary import summarise


def show_bench(
    runs: Sequence[Path],
    records: Sequence[Record],
    shown: Tables,
    environment: Mapping[str, Any],
    form: Format,
    *,
    line: bool,
) -> Path:
    """Write the page into the first of the folders `runs`, print the tables in the format `form`, and return the page's
    path; `line` adds the JSON document as the last line."""
    summary = summarise(records, environment)
    failed = len(records) - summary.done
    title = " · ".join(filter(None, (f"{records[0]['suite']}" if records else "", summary.title)))
    page = bench_page(shown, records, runs, title, summary.machine)
    path = write_bench_page(runs[0], page)
    document = {"schema": SCHEMA, "run": str(runs[0]), "done": summary.done, "failed": failed} | shown.document()
    match form:
        case Format.TABLE:
            print_view(bench_view(shown, title, Console().width))
        case Format.CSV:
            print_text(bench_csv(shown))
        case Format.MD:
            print_text(bench_markdown(shown, title))
        case Format.LATEX:
            print_text(bench_latex(shown))
        case Format.HTML:
            print_text(page)
        case Format.JSON if not line:
            print_json(document, indent=1)
    if line:
        print_json(document)
    return path
