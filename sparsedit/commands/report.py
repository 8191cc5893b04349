"""`sparsedit report`: a run's table and page again, from its records alone."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options
from sparsedit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparsedit.records import Record


class Format(StrEnum):
    """How a run is written to stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"
    HTML = "html"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    output_format: Annotated[
        Format, typer.Option("--output-format", help="Of the summary on stdout.", rich_help_panel="Results")
    ] = Format.TABLE,
    embed: Annotated[
        bool | None,
        typer.Option("--embed/--no-embed", help="All pictures inside the page, or none; else few are."),
    ] = None,
    gallery: Annotated[bool, typer.Option("--gallery", help="Also show the pictures on the terminal.")] = False,
    json_line: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Rebuild a run's table and report.html from its records."""
    from sparsedit.commands.output import print_records, print_text, stderr
    from sparsedit.records import read_records
    from sparsedit.report.page import write_page
    from sparsedit.report.summary import summarise
    from sparsedit.report.text import summary_latex
    from sparsedit.runs import RunFolder

    folder = RunFolder.open(run)
    records = read_records(folder.records)
    machine = _environment(run / "environment.json")
    page = write_page(folder.path, records, machine, embed=embed)
    match output_format:
        case Format.LATEX:
            print_text(summary_latex(summarise(records, machine)))
        case Format.HTML:
            print_text(page.read_text(encoding="utf-8"))
    # The other formats are those of `edit`, and so is the line of JSON.
    print_records(records, machine, folder.path, output_format, line=json_line)
    if gallery:
        _show_gallery(folder.path, records)
    stderr(quiet=quiet).print(f"report: {page}", soft_wrap=True)


def _show_gallery(run: Path, records: Sequence[Record]) -> None:
    """Pictures are made of colours: where stdout shows none, there is nothing to show."""
    from rich.console import Console

    from sparsedit.commands.output import print_view, stderr
    from sparsedit.report.gallery import gallery

    console = Console()
    if console.no_color or not console.is_terminal:
        stderr().print("--gallery needs a terminal with colours; the pictures are in report.html")
        return
    print_view(gallery(run, records, console.width))


def _environment(path: Path) -> dict[str, Any]:
    """What the run says of its machine; nothing where the file is gone, for tables need it not."""
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not isinstance(facts, dict):
        raise InputError(f"{path} does not describe a machine")
    return facts
