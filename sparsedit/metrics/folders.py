"""Which pictures of two places belong together: two files, two folders, or PIE-Bench's folder and a folder of results.

Pictures of folders are matched by their path inside them, without its ending; what has no partner is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsedit.errors import InputError
from sparsedit.images import load_image
from sparsedit.masks import load_mask
from sparsedit.metrics.pixels import Mask
from sparsedit.metrics.scorer import Pair
from sparsedit.suites.pie import MAPPING, ORIGINALS, PieItem, load_pie

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MASK_ENDINGS = (*ENDINGS, ".npy")


@dataclass(frozen=True)
class NamedPair:
    """Two pictures that belong together, opened when they are asked for."""

    name: str
    load: Callable[[], Pair]
    edit_type: str | None = None


@dataclass(frozen=True)
class Matched:
    """The pairs of two places, and the pictures of either that have no partner."""

    pairs: tuple[NamedPair, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()


def is_pie(folder: Path) -> bool:
    """Whether this is PIE-Bench's folder, which brings masks, prompts and types of edits with it."""
    return (folder / MAPPING).is_file()


def match(a: Path, b: Path, mask: Path | None, prompt: str | None) -> Matched:
    """The pairs of `a`, what is scored against, and `b`. `mask` is a file, or a folder matched like the pictures.

    Raises InputError when the two are of different kinds, a name stands for two pictures, or nothing matches.
    """
    if not a.is_dir() and not b.is_dir():
        return Matched((NamedPair(b.name, _files(a, b, mask, prompt)),))
    for place in (a, b):
        if not place.is_dir():
            raise InputError(f"{place} is no folder, the other is; compare two pictures, two folders or two runs")
    matched = _pie(a, b) if is_pie(a) else _folders(a, b, mask, prompt)
    if not matched.pairs:
        raise InputError(f"no picture of {a} has a name that one of {b} has too")
    return matched


def _folders(a: Path, b: Path, mask: Path | None, prompt: str | None) -> Matched:
    first, second = _pictures(a, ENDINGS), _pictures(b, ENDINGS)
    masks = _pictures(mask, _MASK_ENDINGS) if mask and mask.is_dir() else dict.fromkeys(first, mask) if mask else {}
    both = [name for name in first if name in second]
    if missing := [name for name in both if mask and name not in masks]:
        raise InputError(f"{mask} has no mask for {missing[0]}; masks are matched by name")
    pairs = (NamedPair(name, _files(first[name], second[name], masks.get(name), prompt)) for name in both)
    return Matched(tuple(pairs), _without(first, second), _without(second, first))


def _pie(a: Path, b: Path) -> Matched:
    """Masks, prompts and types come from the mapping; results lie under the originals' paths in `b`, or its like."""
    results = _pictures(b / ORIGINALS if (b / ORIGINALS).is_dir() else b, ENDINGS)
    root = (a / ORIGINALS).resolve()
    items = {_name(item.original.resolve(), root): item for item in load_pie(a)}
    pairs = (
        NamedPair(name, _pie_loader(item, results[name]), item.edit_type_name)
        for name, item in items.items()
        if name in results
    )
    return Matched(tuple(pairs), _without(items, results), _without(results, items))


def _pie_loader(item: PieItem, result: Path) -> Callable[[], Pair]:
    def load() -> Pair:
        pictures = item.pictures()
        return Pair(pictures.original, load_image(result), pictures.mask, item.target_prompt)

    return load


def _files(a: Path, b: Path, mask: Path | None, prompt: str | None) -> Callable[[], Pair]:
    def load() -> Pair:
        result = load_image(b)
        drawn: Mask | None = None if mask is None else np.asarray(load_mask(mask, result.size))
        return Pair(load_image(a), result, drawn, prompt)

    return load


def _pictures(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """The pictures under a folder by their names, sorted. Raises InputError for a name that two have."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in endings or not path.is_file():
            continue
        name = _name(path, folder)
        if name in found:
            raise InputError(f"{found[name]} and {path} have one name; pictures are matched without their endings")
        found[name] = path
    return found


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _without(names: Mapping[str, object], others: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)
