"""PIE-Bench++ on the Hugging Face hub: PIE-Bench's pictures with other prompts and other masks, under its own name.

    UB-CVML-Group/PIE_Bench_pp      ten configurations, one for each type of edit; split V1; of every row
        image, id, source_prompt, target_prompt, edit_action, aspect_mapping, blended_words
        mask                        "start length start length ...", runs over the flattened picture, as in PIE-Bench

Read through `datasets`: from the hub, or from a folder that holds a configuration in each of its subfolders, as
`Dataset.save_to_disk` leaves it or as parquet files. Numbers taken on it are not numbers of PIE-Bench.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsedit.errors import InputError, shown
from sparsedit.manifest import check_id
from sparsedit.measure.memory import ran_out
from sparsedit.suites.edit import Suite, item_edit
from sparsedit.suites.item import Pictures, SuiteItem
from sparsedit.suites.pie import FOLDERS
from sparsedit.suites.rle import decode, runs_fault

NAME = "pie-pp"
REPOSITORY = "UB-CVML-Group/PIE_Bench_pp"
SPLIT = "V1"
CONFIGURATIONS = tuple(
    f"{number}_{folder}_{count}"
    for number, (folder, count) in enumerate(zip(FOLDERS, (140, 80, 80, 80, 40, 40, 40, 40, 80, 80), strict=True))
)
_NEEDED = ("image", "id", "source_prompt", "target_prompt", "mask")


@dataclass(frozen=True)
class HubItem(SuiteItem):
    """A row of the data set: where it stands, and the runs of its mask."""

    rows: Any = field(repr=False, compare=False)
    place: int
    runs: tuple[int, ...]

    def pictures(self) -> Pictures:
        # Not at the top: it imports torch, which choosing and planning do without.
        from sparsedit.images import to_rgb

        original = to_rgb(self.rows[self.place]["image"])
        try:
            return Pictures(original, decode(self.runs, original.height, original.width))
        except InputError as error:
            raise InputError(f"The mask of {self.id} does not fit its picture. {error}") from None


def hub_suite(folder: Path | None) -> Suite:
    """The suite from `folder`, or from the hub without one.

    Raises InputError where it cannot be had, lacks a column, or has a mask that is none.
    """
    edits, prints = [], {}
    for number, configuration in enumerate(CONFIGURATIONS):
        rows = _rows(folder, configuration)
        if rows is None:
            continue
        prints[configuration] = _fingerprint(rows)
        edits += [item_edit(item, has_edited=False) for item in _items(rows, number, configuration)]
    if not edits:
        raise InputError(f"{folder} holds no configuration of {REPOSITORY}, such as {CONFIGURATIONS[0]}.")
    return Suite(NAME, tuple(edits), prints)


def _items(rows: Any, number: int, configuration: str) -> Iterator[HubItem]:
    for place, row in enumerate(rows.remove_columns("image")):
        where = f"{configuration}, row {place}"
        try:
            name, runs = check_id(str(row["id"])), tuple(int(word) for word in row["mask"].split())
        except (ValueError, AttributeError) as error:
            raise InputError(f"{where}: {error}") from None
        if fault := runs_fault(runs):
            raise InputError(f"{where}: the mask {shown(row['mask'])} is none: {fault}")
        source, target = str(row["source_prompt"]), str(row["target_prompt"])
        yield HubItem(name, number, source, target, "", "", rows=rows, place=place, runs=runs)


def _rows(folder: Path | None, configuration: str) -> Any:
    """The rows of a configuration; None where a folder does not hold it."""
    import datasets

    if folder is not None and not (folder / configuration).is_dir():
        return None
    try:
        if folder is None:
            rows = datasets.load_dataset(REPOSITORY, configuration, split=SPLIT)
        elif files := sorted(map(str, (folder / configuration).rglob("*.parquet"))):
            rows = datasets.load_dataset("parquet", data_files=files, split="train")
        else:
            rows = datasets.load_from_disk(str(folder / configuration))
            rows = rows[SPLIT] if isinstance(rows, datasets.DatasetDict) else rows
    except Exception as error:  # whatever a library of many back ends raises, want of memory aside
        if ran_out(error):
            raise
        raise InputError(f"{folder or REPOSITORY}, {configuration}, cannot be read ({error})") from error
    if missing := [column for column in _NEEDED if column not in rows.column_names]:
        raise InputError(f"{folder or REPOSITORY}, {configuration}, has no column {missing[0]!r}")
    return rows


def _fingerprint(rows: Any) -> str:
    """Of what the rows hold, wherever they lie: `datasets`' own fingerprint is also of the path."""
    import hashlib

    import datasets

    whole = hashlib.sha256()
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        whole.update(repr([row[column] for column in _NEEDED if column != "image"]).encode())
        whole.update(row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes())
    return whole.hexdigest()[:16]
