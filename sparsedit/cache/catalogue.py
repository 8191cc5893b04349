"""The recordings of a cache folder: what each is of, how large, and whether it still holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedit.cache.folder import RecordingFolder
from sparsedit.cache.lock import locked
from sparsedit.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One recording. Of one that is not whole (being made, damaged, or left by a process that was killed) only its key
    and the `nbytes` of its files are known."""

    folder: RecordingFolder

    def facts(self) -> dict[str, Any]:
        """What can be said of it, as plain values."""
        contents = self.folder.contents()
        facts: dict[str, Any] = {"key": self.folder.key, "whole": contents is not None, "bytes": self.folder.nbytes}
        of = {} if contents is None else contents.fingerprint
        named = ("model", "task", "prompt", "size", "strength", "seed", "precision", "rows")
        facts |= {name: of.get(name) for name in named}
        return facts | {
            "steps": contents and contents.steps.get("unet"),
            "of_steps": of.get("steps"),
            "made": contents and contents.made,
        }


def entries(folder: Path, keys: Sequence[str] = ()) -> list[Entry]:
    """The recordings of a cache folder with these keys, or all of them. Raises InputError for what is not there."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that was given with --cache")
    found = {path.name: RecordingFolder(path) for path in sorted(folder.iterdir()) if _is_recording(path)}
    for key in keys:
        if key not in found:
            raise InputError(f"{folder} has no recording {key}{did_you_mean(key, found)}")
    return [Entry(found[key]) for key in keys or found]


def remove(entry: Entry) -> int:
    """Delete a recording; the bytes that it took. Raises CacheError while another process records it."""
    with locked(entry.folder.lock, wait=False):
        nbytes = entry.folder.nbytes
        entry.folder.remove()
    return nbytes


def faults(entry: Entry) -> list[str]:
    """A sentence for everything that is wrong with a recording; reads all of it."""
    contents = entry.folder.contents()
    return ["it is not whole"] if contents is None else entry.folder.faults(contents)


def _is_recording(path: Path) -> bool:
    """Whether a folder is one of ours: nothing else is ever listed or deleted."""
    return len(path.name) == 16 and path.is_dir() and set(path.name) <= set("0123456789abcdef")
