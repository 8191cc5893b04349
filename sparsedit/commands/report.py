"""`sparsedit report`: a run's table and page again, from its records alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options
from sparsedit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparsedit.records import Record
    from sparsedit.runs import RunFolder


class Format(StrEnum):
    """How a run is written to stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"
    HTML = "html"


class ReportFormat(StrEnum):
    """How `report` gives a run again: as `Format` does, or as a folder."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"
    HTML = "html"
    DATASETS = "datasets"


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run's folder; of a bench several, its shards.")
    ],
    output_format: Annotated[
        ReportFormat,
        typer.Option(
            "--output-format", help="Of the summary on stdout; datasets writes a folder.", rich_help_panel="Results"
        ),
    ] = ReportFormat.TABLE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder of format datasets.", rich_help_panel="Results"),
    ] = None,
    embed: Annotated[
        bool | None,
        typer.Option("--embed/--no-embed", help="All pictures inside the page or the data set, or none; else few are."),
    ] = None,
    gallery: Annotated[bool, typer.Option("--gallery", help="Also show the pictures on the terminal.")] = False,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="RUN", help="Of a bench: paired differences.", rich_help_panel="Results"),
    ] = None,
    json_line: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Rebuild a run's table and report.html from its records; those of a bench's shards are put together."""
    from sparsedit.commands.output import print_records, print_text, stderr
    from sparsedit.record_form import read_environment, read_run
    from sparsedit.report.bench import is_bench
    from sparsedit.report.page import write_page
    from sparsedit.report.summary import summarise
    from sparsedit.report.text import summary_latex
    from sparsedit.runs import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    if output_format is ReportFormat.DATASETS:
        _write_dataset(folders, output, pictures=bool(embed))
        return
    if output is not None:
        raise InputError("--output is the folder of --output-format datasets; other formats go to stdout")
    form = Format(output_format)
    folder, records = folders[0], read_run(folders[0].records)
    machine = read_environment(folder.path)
    if is_bench(records) or len(runs) > 1 or baseline is not None:
        if gallery or embed is not None:
            raise InputError("--gallery and --embed are for runs of edit; a bench's page holds pictures of some edits")
        page = _report_bench(folders, machine, baseline, form, line=json_line)
        stderr(quiet=quiet).print(f"report: {page}", soft_wrap=True)
        return
    page = write_page(folder.path, records, machine, embed=embed)
    match form:
        case Format.LATEX:
            print_text(summary_latex(summarise(records, machine)))
        case Format.HTML:
            print_text(page.read_text(encoding="utf-8"))
    # The other formats are those of `edit`, and so is the line of JSON.
    print_records(records, machine, folder.path, form, line=json_line)
    if gallery:
        _show_gallery(folder.path, records)
    stderr(quiet=quiet).print(f"report: {page}", soft_wrap=True)


def _report_bench(
    folders: Sequence[RunFolder], machine: dict[str, Any], baseline: Path | None, form: Format, *, line: bool
) -> Path:
    """Show the records of all folders together, the page going to the first."""
    from sparsedit.bench.sessions import describe, read_sessions
    from sparsedit.commands.bench_output import show_bench
    from sparsedit.record_form import read_run
    from sparsedit.report.bench import merged, tables
    from sparsedit.runs import RunFolder

    records, notes = merged([(str(folder.path), read_run(folder.records)) for folder in folders])
    before = None if baseline is None else read_run(RunFolder.open(baseline).records)
    shown = tables(records, before, [*notes, *describe(read_sessions(folders))])
    return show_bench([folder.path for folder in folders], records, shown, machine, form, line=line)


def _write_dataset(folders: Sequence[RunFolder], output: Path | None, *, pictures: bool) -> None:
    """Write the records of all folders, each once, as a data set, and print its place."""
    from sparsedit.commands.output import print_text
    from sparsedit.record_form import read_run
    from sparsedit.report.bench import merged
    from sparsedit.report.dataset import write_dataset

    if output is None:
        raise InputError("format datasets is a folder: name it with --output")
    records, _ = merged([(str(folder.path), read_run(folder.records)) for folder in folders])
    write_dataset(output, records, [folder.path for folder in folders], pictures=pictures)
    print_text(f"{output}\n")


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
