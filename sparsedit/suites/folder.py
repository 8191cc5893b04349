"""A suite that is a folder of pictures of one's own:

    DIR/original/NAME.png            the originals, in any of the formats that are read
    DIR/edited/NAME.png              each with strokes on it, and
    DIR/masks/NAME.png               or where it is to be edited; one of the two, or both
    DIR/prompts.csv                  name,prompt,edit_prompt,edit_type; a line for each original

`edit_prompt` may be left empty, for the original's prompt, and `edit_type` too. With an edited picture the task is
SDEdit, without one inpainting.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from sparsedit.errors import InputError, did_you_mean
from sparsedit.files import check_file
from sparsedit.manifest import check_id
from sparsedit.suites.digest import digest
from sparsedit.suites.edit import DERIVED, GIVEN, ONLY, Suite, SuiteEdit
from sparsedit.suites.listed import ListedFiles

PROMPTS = "prompts.csv"
_COLUMNS = ("name", "prompt", "edit_prompt", "edit_type")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy")

Line = Mapping[str, str]


def folder_suite(folder: Path) -> Suite:
    """The suite in `folder`, in the order of its prompts.

    Raises InputError for a line without a picture, a picture without a line, and an original of which nothing says what
    is edited.
    """
    lines = _lines(folder / PROMPTS)
    pictures = {kind: _pictures(folder / kind) for kind in ("original", "edited", "masks")}
    for kind, found in pictures.items():
        for name in found:
            if name not in lines:
                hint = did_you_mean(name, lines)
                raise InputError(f"{folder / PROMPTS} has no line for {kind}/{found[name].name}{hint or '.'}")
    edits = tuple(_edit(folder, name, line, pictures) for name, line in lines.items())
    files = [folder / PROMPTS, *(found[name] for found in pictures.values() for name in sorted(found))]
    return Suite("folder", edits, {"files": digest(files)})


def _edit(folder: Path, name: str, line: Line, pictures: Mapping[str, Mapping[str, Path]]) -> SuiteEdit:
    original, edited, mask = (pictures[kind].get(name) for kind in ("original", "edited", "masks"))
    if original is None:
        raise InputError(f"{folder / PROMPTS} has a line for {name!r}, and {folder / 'original'} no such picture.")
    if edited is None and mask is None:
        raise InputError(f"Nothing says what to change in {original}: put {name} into edited/, masks/ or both.")
    return SuiteEdit(
        case=name,
        variant=ONLY,
        edit_type=line["edit_type"] or None,
        prompt=line["prompt"],
        edit_prompt=line["edit_prompt"] or line["prompt"],
        open=ListedFiles(original, edited, mask),
        has_edited=edited is not None,
        has_mask=mask is not None,
        track=GIVEN if mask else DERIVED,
        settings=({"task": "sdedit" if edited else "inpaint"},),
    )


def _lines(path: Path) -> dict[str, Line]:
    check_file(path)
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), restval="")
        columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}).") from None
    if not {"name", "prompt"} <= set(columns) <= set(_COLUMNS):
        raise InputError(f"{path} must have the columns {', '.join(_COLUMNS)} (the last two may be missing).")
    lines: dict[str, Line] = {}
    for number, row in enumerate(rows, 2):
        if None in row:
            raise InputError(f"{path}, line {number}: more values than columns; put text with commas in quotes.")
        try:
            name = check_id(row["name"])
        except ValueError as error:
            raise InputError(f"{path}, line {number}: name: {error}") from None
        if name in lines:
            raise InputError(f"{path}, line {number}: {name!r} has a line already.")
        lines[name] = {column: row.get(column) or "" for column in _COLUMNS}
    if not lines:
        raise InputError(f"{path} has no lines.")
    return lines


def _pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without the ending; none where there is no such folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in _ENDINGS:
            continue
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} are pictures of one name; keep one of them.")
        found[path.stem] = path
    return found
