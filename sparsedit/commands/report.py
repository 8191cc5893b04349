"""`sparsedit report`: a run's table and page again, from its records alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsedit.commands import options
from sparsedit.commands.options import Format
from sparsedit.errors import InputError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    output_format: options.OutputFormat = Format.TABLE,
    json_line: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Rebuild a run's table and report.html from its records."""
    from sparsedit.commands.output import print_records, stderr
    from sparsedit.records import read_records
    from sparsedit.report.page import write_page
    from sparsedit.runs import RunFolder

    folder = RunFolder.open(run)
    records = read_records(folder.records)
    machine = _environment(run / "environment.json")
    page = write_page(folder.path, records, machine)
    print_records(records, machine, folder.path, output_format, line=json_line)
    stderr(quiet=quiet).print(f"report: {page}", soft_wrap=True)


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
