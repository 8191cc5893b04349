"""`models pull`: fetch everything a model is loaded from, and check that what arrived is what the hub has.

The hub's cache names a weight file by the SHA-256 of its content, so a file that was cut short or damaged on the disk
can be told, removed and fetched again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sparsedit.errors import ModelError
from sparsedit.models.hub import Fetching, HubId, download, download_files, parse_hub_id
from sparsedit.models.parts import LORA_FILE, model_files
from sparsedit.models.presets import PARTS, PRESETS, Part, Preset, get_preset

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pulled:
    """A repository that is here now: its `folder`, how many bytes of weights it has, and of how many files the content
    was checked against the hub's hash (the others' structure alone)."""

    name: str
    folder: Path
    files: int
    hashed: int
    nbytes: int


def pull(name: str, *, progress: bool = False) -> list[Pulled]:
    """Fetch the preset, part (`taesd-xl`, `canny-sdxl-small`) or hub id `name`, with its LoRA if it has one.

    What is embedded needs no fetching: the list is empty then. Raises ModelError for what cannot be fetched, or is
    damaged even when fetched again.
    """
    how = Fetching(name, progress)
    if name in PARTS and name not in PRESETS:
        return _pull_part(PARTS[name], how)
    if name in PRESETS:
        preset = PRESETS[name]
        return _pull_preset(preset, how) + (_pull_part(preset.lora, how) if preset.lora else [])
    source = parse_hub_id(name)
    if source is None:
        get_preset(name)  # the error names those there are
        raise AssertionError(name)
    if source.file:
        files = [source.file]
        return [_checked(name, lambda: download_files(source, files, how))]
    return [_checked(name, lambda: download(source, None, how))]


def damaged_files(folder: Path) -> list[Path]:
    """The safetensors files under `folder` that are cut short, malformed, or not what the cache's name says."""
    return [path for path in sorted(folder.rglob("*.safetensors")) if not _is_sound(path)]


def _pull_preset(preset: Preset, how: Fetching) -> list[Pulled]:
    if preset.hub_id is None:
        return []
    source = HubId(preset.hub_id, preset.revision)
    return [_checked(preset.name, lambda: download(source, preset.variant, how))]


def _pull_part(part: Part, how: Fetching) -> list[Pulled]:
    if part.hub_id is None:
        return []
    source = HubId(part.hub_id, part.revision)
    files = [part.file or LORA_FILE] if part.config is None else model_files(part.variant)
    return [_checked(part.name, lambda: download_files(source, files, how))]


def _checked(name: str, fetch: Callable[[], Path]) -> Pulled:
    """Fetch, and once more what arrived damaged or was so before."""
    folder = fetch()
    damaged = damaged_files(folder)
    for path in damaged:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    if damaged and (still := damaged_files(folder := fetch())):
        raise ModelError(f"{still[0]} is damaged, and was so again when fetched anew; is the disk full or failing?")
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise ModelError(f"{name} has no safetensors weights, and others are not read")
    hashed = sum(_hash_of(path) is not None for path in weights)
    return Pulled(name, folder, len(weights), hashed, sum(path.stat().st_size for path in weights))


def _is_sound(path: Path) -> bool:
    try:
        with safe_open(str(path), framework="pt"):  # compares the header with the file's length
            pass
    except (OSError, SafetensorError):
        return False
    expected = _hash_of(path)
    if expected is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected


def _hash_of(path: Path) -> str | None:
    """The SHA-256 by which the hub's cache names the file's content; None for a file that is not in such a cache."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else None
