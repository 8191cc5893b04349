"""`sparsedit cache`: what `--cache DIR` kept: what each recording is of, how large, and whether it still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsedit.commands import options

app = typer.Typer(help="List, check or remove recordings.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder given with --cache.")]
Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY]…", help="Recordings that `cache ls` shows; else all.")]


@app.command("ls")
def list_recordings(folder: Folder, json_line: options.Json = False, debug: options.Debug = False) -> None:
    """List the recordings of a cache folder, with the bytes that their files take."""
    from sparsedit.cache.catalogue import entries
    from sparsedit.commands.output import print_json, print_text, print_view
    from sparsedit.report.numbers import NONE, size_of
    from sparsedit.report.table import cells, grid

    facts = [entry.facts() for entry in entries(folder)]
    right = ("size", "steps", "bytes")
    columns = ("key", "model", "task", "size", "steps", "kept", "prompt", "made", "bytes")
    table = grid([(name, "right" if name in right else "left") for name in columns])
    for one in facts:
        words = _words(one) if one["whole"] else ["not whole", *[NONE] * 6]
        table.add_row(*cells([one["key"], *words, size_of(one["bytes"])]))
    print_view(table)
    total = sum(one["bytes"] for one in facts)
    print_text(f"{len(facts)} recordings, {size_of(total)}\n")
    if json_line:
        print_json({"recordings": facts, "bytes": total})


@app.command("rm")
def remove_recordings(
    folder: Folder,
    keys: Keys = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every recording.")] = False,
    json_line: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Remove recordings by their keys, or with --all every one; other files are never touched."""
    from sparsedit.cache.catalogue import entries, remove
    from sparsedit.commands.output import print_json, print_text
    from sparsedit.errors import InputError
    from sparsedit.report.numbers import size_of

    if bool(keys) == everything:
        raise InputError("name the recordings to remove, as sparsedit cache ls shows them, or say --all")
    removed = {entry.folder.key: remove(entry) for entry in entries(folder, keys or ())}
    print_text(f"{len(removed)} recordings removed, {size_of(sum(removed.values()))}\n")
    if json_line:
        print_json({"removed": list(removed), "bytes": sum(removed.values())})


@app.command("verify")
def verify_recordings(
    folder: Folder, keys: Keys = None, json_line: options.Json = False, debug: options.Debug = False
) -> None:
    """Read recordings and compare every file with its checksum; leaves with 1 when one is damaged.

    What is damaged needs no repair: an edit that meets it records the original again.
    """
    from sparsedit.cache.catalogue import entries, faults
    from sparsedit.commands.output import print_json, print_text

    found = {entry.folder.key: faults(entry) for entry in entries(folder, keys or ())}
    for key, sentences in found.items():
        print_text(f"{key}: {'; '.join(sentences) or 'intact'}\n")
    if json_line:
        print_json({"recordings": [{"key": key, "faults": sentences} for key, sentences in found.items()]})
    if any(found.values()):
        raise typer.Exit(1)


def _words(facts: dict[str, Any]) -> list[str]:
    """A whole recording's row between its key and its bytes."""
    steps = f"{facts['steps']} of {facts['of_steps']}"
    kept = ", ".join(
        word for word in ("int8" * (facts["precision"] == "int8"), "halo" * (facts["rows"] != "all")) if word
    )
    width, height = facts["size"]
    return [
        facts["model"],
        facts["task"],
        f"{width}x{height}",
        steps,
        kept or "all",
        facts["prompt"],
        facts["made"][:10],
    ]
