"""The pictures of a record, where its run's folder has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsedit.files import file_fault
from sparsedit.records import Record

SHARED = ("original", "edited", "mask", "dense")
"""Those that all ways of a case have in common; a bench keeps them one folder above those of a way."""
OWN = ("sparse", "heat")
NAMES = (*SHARED, *OWN)


def find_pictures(folders: Sequence[Path], record: Record) -> dict[str, Path]:
    """The record's pictures by name, from the first of the runs' folders that has any; from inside it alone, links
    followed, whatever the record says."""
    return next((found for folder in folders if (found := _in(folder, record))), {})


def _in(folder: Path, record: Record) -> dict[str, Path]:
    root = (folder / "images").resolve()
    if "images" in record:
        own = root / str(record["images"])
        shared = own.parent
    else:
        own = shared = root / str(record["case"]) / str(record["variant"])
    paths = {name: ((own if name in OWN else shared) / f"{name}.png").resolve() for name in NAMES}
    return {name: path for name, path in paths.items() if path.is_relative_to(root) and not file_fault(path)}
