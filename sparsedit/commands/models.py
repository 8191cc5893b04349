"""`sparsedit models`: the models that have a name here, and how to get each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options

if TYPE_CHECKING:
    from sparsedit.models.presets import Preset

app = typer.Typer(help="List or describe the named models.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, json_line: options.Json = False, debug: options.Debug = False) -> None:
    if context.invoked_subcommand is None:
        list_models(json_line)


@app.command("list")
def list_models(json_line: options.Json = False, debug: options.Debug = False) -> None:
    """List the named models."""
    from sparsedit.commands.output import print_json, print_view
    from sparsedit.models.presets import PRESETS
    from sparsedit.report.table import cells, grid

    table = grid([("name", "left"), ("model", "left"), ("size", "right"), ("weights", "left")])
    for preset in PRESETS.values():
        table.add_row(*cells([preset.name, preset.title, f"{preset.native_size} px", preset.hub_id or "embedded"]))
    print_view(table)
    if json_line:
        print_json({"models": [_entry(preset) for preset in PRESETS.values()]})


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `models list` shows.")],
    json_line: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Describe one model: what it is, its settings, its licence, how to fetch it."""
    from sparsedit.commands.output import print_json, print_view
    from sparsedit.models.presets import get_preset
    from sparsedit.report.table import cells, grid

    preset = get_preset(name)
    entry = _entry(preset)
    table = grid([("what", "left"), ("value", "left")])
    for key, value in entry.items():
        table.add_row(*cells([key.replace("_", " "), _said(value)]))
    print_view(table)
    if json_line:
        print_json(entry)


def _entry(preset: Preset) -> dict[str, Any]:
    """A preset as plain values; where its files lie in this package is nobody's business."""
    facts = asdict(preset) | {"defaults": dict(preset.defaults), "fetch_command": preset.fetch_command}
    return {key: value for key, value in facts.items() if key not in ("configs", "embedded")}


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {said}" for key, said in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
