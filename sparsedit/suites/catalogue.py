"""Suites by name, and which of their edits are run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sparsedit.errors import InputError, did_you_mean
from sparsedit.suites.demo import demo_items
from sparsedit.suites.digest import digest
from sparsedit.suites.edit import Suite, item_edit
from sparsedit.suites.folder import folder_suite
from sparsedit.suites.hub import NAME as HUB
from sparsedit.suites.hub import hub_suite
from sparsedit.suites.item import EDIT_TYPES
from sparsedit.suites.listed import manifest_suite, sige_suite
from sparsedit.suites.pie import MAPPING, load_pie
from sparsedit.suites.selection import EditType, select

DEMO_COUNT = 200
"""Edits of the demo suite where nobody says how many."""

_NEED_DATA = ("pie", "folder")
SUITES = ("demo", "sige", "pie", HUB, "folder")


def open_suite(name: str, data: Path | None = None, *, allow_outside: bool = False, limit: int | None = None) -> Suite:
    """The suite called `name`, or the manifest at that path, its files in the folder `data`; no picture is opened.

    `limit` says how many edits are wanted, for a suite that can have any number. Raises InputError for an unknown name
    and for data that is missing, not asked for, or not what it should be.
    """
    if name.lower().endswith((".yaml", ".yml")):
        return manifest_suite(Path(name), data, allow_outside=allow_outside)
    if name not in SUITES:
        hint = did_you_mean(name, SUITES) or f"; there are {', '.join(SUITES)}, and any manifest (.yaml)"
        raise InputError(f"unknown suite {name!r}{hint}")
    if data is not None and not data.is_dir():
        raise InputError(f"{data} is not a folder; the data of suite {name} are sought in it.")
    if data is None and name in _NEED_DATA:
        raise InputError(f"suite {name} is a folder of pictures: name it with --data DIR")
    if data is not None and name == "demo":
        raise InputError(
            "suite demo is drawn, so --data has nothing to say; --suite pie reads a folder it was written to"
        )
    opening: dict[str, Callable[[], Suite]] = {"demo": partial(_demo, limit), "sige": partial(sige_suite, data)}
    if data is not None:
        opening |= {"pie": partial(_pie, data), "folder": partial(folder_suite, data)}
    return (opening | {HUB: partial(hub_suite, data)})[name]()


def choose(
    suite: Suite, *, types: Sequence[str] = (), ids: Collection[str] = (), limit: int | None = None, seed: int = 0
) -> Suite:
    """The suite with the edits chosen, as `select` does; a type is a name or PIE-Bench's number of it, and the id of a
    case stands for all its variants."""
    named: list[EditType] = [EDIT_TYPES.get(int(word), word) if word.isdigit() else word for word in types]
    cases = {edit.case: edit for edit in suite.edits}
    whole = {edit.id for edit in suite.edits if edit.case in ids}
    wanted = whole | {name for name in ids if name not in cases}
    return replace(suite, edits=tuple(select(suite.edits, types=named, ids=wanted, limit=limit, seed=seed)))


def _demo(limit: int | None) -> Suite:
    items = demo_items(max(limit or DEMO_COUNT, 1))
    return Suite("demo", tuple(item_edit(item, has_edited=True) for item in items), {"seed": 0}, "demo")


def _pie(data: Path) -> Suite:
    items = load_pie(data)
    pictures = sorted({item.original for item in items} | {item.truth for item in items if item.truth is not None})
    contents = {"mapping": digest([data / MAPPING]), "pictures": digest(pictures)}
    return Suite("pie", tuple(item_edit(item, has_edited=False) for item in items), contents)
