"""Results on stdout, in the format that was asked for; everything else that is said goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from sparsedit.commands.options import Format
from sparsedit.records import SCHEMA, Record


def stderr(*, quiet: bool = False) -> Console:
    """The console for what is not the result."""
    return Console(stderr=True, highlight=False, markup=False, quiet=quiet)


def print_view(view: RenderableType) -> None:
    Console(highlight=False, markup=False).print(view)


def print_text(text: str) -> None:
    sys.stdout.write(text)


def print_json(document: Mapping[str, Any], *, indent: int | None = None) -> None:
    """One JSON document, on one line unless indented; ASCII, without NaN."""
    print_text(json.dumps(document, allow_nan=False, indent=indent) + "\n")


def print_result(
    document: Mapping[str, Any],
    form: Format,
    *,
    line: bool,
    view: Callable[[], RenderableType],
    csv: Callable[[], str],
    markdown: Callable[[], str],
) -> None:
    """A document in the format `form`; `line` adds it as JSON, as the last line."""
    match form:
        case Format.TABLE:
            print_view(view())
        case Format.CSV:
            print_text(csv())
        case Format.MD:
            print_text(markdown())
        case Format.JSON if not line:
            print_json(document, indent=1)
    if line:
        print_json(document)


def print_records(
    records: Sequence[Record], environment: Mapping[str, Any], run: Path, form: StrEnum, *, line: bool
) -> None:
    """A run's summary in the format `form`; `line` adds the JSON document as the last line."""
    from sparsedit.report.summary import summarise
    from sparsedit.report.table import summary_view
    from sparsedit.report.text import records_csv, summary_markdown

    summary = summarise(records, environment)
    document = {"schema": SCHEMA, "run": str(run), "done": summary.done, "failed": len(records) - summary.done}
    document |= {"means": [mean.entry() for mean in summary.means], "records": list(records)}
    match form:
        case Format.TABLE:
            print_view(summary_view(summary, Console().width))
        case Format.CSV:
            print_text(records_csv(records))
        case Format.MD:
            print_text(summary_markdown(summary))
        case Format.JSON if not line:
            print_json(document, indent=1)
    if line:
        print_json(document)
