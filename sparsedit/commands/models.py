"""`sparsedit models`: the models that have a name here, what each is and needs, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options

if TYPE_CHECKING:
    from sparsedit.models.presets import Part, Preset, Published

app = typer.Typer(help="List, describe or fetch the named models.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `models list` shows.")]


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

    table = grid([("name", "left"), ("model", "left"), ("size", "right"), ("download", "right"), ("weights", "left")])
    for preset in PRESETS.values():
        size, download = f"{preset.native_size} px", "–" if preset.embedded else _gigabytes(_download_bytes(preset))
        table.add_row(*cells([preset.name, preset.title, size, download, preset.hub_id or "embedded"]))
    print_view(table)
    if json_line:
        print_json({"models": [_entry(preset) for preset in PRESETS.values()]})


@app.command("show")
def show(name: Name, json_line: options.Json = False, debug: options.Debug = False) -> None:
    """Describe one model: what it is and is good for, its settings, licence, memory need, and how to fetch it.

    Memory is that of bfloat16 at the model's own size, all of it on one device.
    """
    from sparsedit.commands.output import print_json, print_view
    from sparsedit.models.presets import get_preset
    from sparsedit.report.table import cells, grid

    preset = get_preset(name)
    entry = _entry(preset) | _memory(preset)
    table = grid([("what", "left"), ("value", "left")])
    for key, value in entry.items():
        table.add_row(*cells([key.replace("_", " "), _said(key, value)]))
    print_view(table)
    if json_line:
        print_json(entry)


@app.command("pull")
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A preset, a part such as taesd-xl, a metric's network (lpips, clip, dino), or a hub id.",
        ),
    ],
    json_line: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fetch a model into the hub's cache (HF_HOME says where), and check every weight file by its hash.

    sparsedit models pull sdxl-turbo

    sparsedit models pull canny-sdxl-small
    """
    from sparsedit.commands.output import print_json, print_text
    from sparsedit.metrics.backbones import BACKBONES
    from sparsedit.models.pull import pull as fetch

    if name in BACKBONES:
        place = BACKBONES[name].fetch(progress=not quiet)
        print_text(f"{BACKBONES[name].title}\n{place}\n")
        if json_line:
            print_json({"pulled": [{"name": name, "folder": str(place)}]})
        return
    pulled = fetch(name, progress=not quiet)
    for one in pulled:
        checked = f"{one.files} weight files, {one.hashed} of them checked by hash"
        print_text(f"{one.name}: {_gigabytes(one.nbytes)}, {checked}\n{one.folder}\n")
    if not pulled:
        print_text(f"{name} is part of this package; there is nothing to fetch\n")
    if json_line:
        entries = [
            {"name": one.name, "folder": str(one.folder), "files": one.files, "hashed": one.hashed, "bytes": one.nbytes}
            for one in pulled
        ]
        print_json({"pulled": entries})


def _entry(preset: Preset) -> dict[str, Any]:
    """A preset as plain values; where its files lie in this package is nobody's business."""
    return {
        "name": preset.name,
        "title": preset.title,
        "description": preset.description,
        "good_for": preset.good_for,
        "family": preset.family,
        "pipeline": preset.pipeline,
        "licence": preset.licence,
        **_published(preset),
        "native_size": preset.native_size,
        "defaults": dict(preset.defaults),
        "tasks": [*preset.tasks, *(["control"] if preset.controlnets else [])],
        "lora": preset.lora and _part(preset.lora),
        "vaes": {name: _part(part) for name, part in preset.vaes.items()},
        "controlnets": {name: _part(part) for name, part in preset.controlnets.items()},
        "refines": preset.refines,
        "fetch_command": preset.fetch_command,
    }


def _part(part: Part) -> dict[str, Any]:
    return {"name": part.name, "title": part.title, "licence": part.licence, **_published(part)}


def _published(thing: Published) -> dict[str, Any]:
    return {
        "hub_id": thing.hub_id,
        "revision": thing.revision,
        "variant": thing.variant,
        "download_bytes": thing.download_bytes or None,
    }


def _memory(preset: Preset) -> dict[str, Any]:
    """The estimate at the model's own size, and why there is none where a part of the model is not installed."""
    import torch

    from sparsedit.errors import ModelError
    from sparsedit.measure.estimate import estimate_memory
    from sparsedit.models.random import random_pipeline

    try:
        pipe = random_pipeline(preset, torch.bfloat16, device="meta")
    except ModelError as error:
        return {"memory": None, "missing": str(error)}
    size, guidance = preset.native_size, float(preset.defaults["guidance"])
    need = estimate_memory(pipe, size, size, guided=guidance > 1)
    memory = {
        "dtype": "bfloat16",
        "weight_bytes": dict(need.weights),
        "call_bytes": dict(need.calls),
        "peak_bytes": need.peak,
        "cache_bytes_per_call": dict(need.cache),
    }
    return {"memory": memory, "missing": None}


def _said(key: str, value: Any) -> str:
    if value is None or value in ({}, []):
        return "–"
    if key == "download_bytes":
        return _gigabytes(value)
    if key == "memory":
        return _said_memory(value)
    if key == "lora":
        return f"{value['title']} ({value['hub_id'] or 'embedded'})"
    if key in ("vaes", "controlnets"):
        return "; ".join(f"{name}: {part['title']}" for name, part in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{name} {said}" for name, said in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _said_memory(memory: dict[str, Any]) -> str:
    need = f"{_gigabytes(memory['peak_bytes'])} in {memory['dtype']}: weights"
    calls, kept = memory["call_bytes"], memory["cache_bytes_per_call"]
    if not calls:
        return need
    beside = ", ".join(f"{stage} {_gigabytes(size)}" for stage, size in calls.items())
    once = sum(size for stage, size in kept.items() if stage != "unet")
    return (
        f"{need}, and the largest call beside them ({beside}); "
        f"a recording keeps {_gigabytes(kept['unet'])} a step and {_gigabytes(once)} once"
    )


def _download_bytes(preset: Preset) -> int:
    return preset.download_bytes + (preset.lora.download_bytes if preset.lora else 0)


def _gigabytes(nbytes: int) -> str:
    if not nbytes:
        return "not known"
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"
