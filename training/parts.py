"""Large arrays on disk, made in parts by several processes: what a kill leaves behind is whole and is kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.multiprocessing

from sparsedit.errors import InputError
from sparsedit.files import write_atomic
from training.log import say

Array = npt.NDArray[Any]
Make = Callable[[Sequence[int]], Array]  # an array [len(seeds), ...] from seeds

_PART = 250


def make_parts(
    folder: Path, seeds: Sequence[int], recipe: dict[str, Any], make: Make, workers: int, size: int = _PART
) -> None:
    """Fill `folder` with what `make` returns for the seeds, in order, `size` to a part; parts that are there are kept.

    `recipe` says what the arrays were made from: a folder with another recipe raises InputError.
    """
    _check_recipe(folder, recipe)
    np.save(folder / "seeds.npy", np.asarray(seeds, np.int64))
    missing = [
        (index, seeds[start : start + size])
        for index, start in enumerate(range(0, len(seeds), size))
        if not _part(folder, index).is_file()
    ]
    started, done = time.monotonic(), 0
    left = sum(len(part) for _, part in missing)
    with _mapper(min(workers, len(missing))) as mapped:
        for count in mapped(partial(_make_part, folder, make), missing):
            done, left = done + count, left - count
            rate = done / (time.monotonic() - started)
            say(f"{folder.name}: {len(seeds) - left} of {len(seeds)}, {rate:.1f}/s, {left / rate / 60:.1f} min left")


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[int]]]:
    """`map`, here or over processes of one thread each."""
    if workers <= 1:
        yield map
        return
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(workers, torch.set_num_threads, (1,)) as pool:
        yield pool.imap_unordered


def read_parts(folder: Path, size: int = _PART) -> tuple[Array, list[Array]]:
    """The seeds [N], and the array in its parts of `size`, mapped from disk; InputError when not complete."""
    if not (folder / "seeds.npy").is_file():
        raise InputError(f"{folder} has not been made yet: see training/README.md for the command.")
    seeds = np.load(folder / "seeds.npy")
    paths = [_part(folder, index) for index in range(-(-len(seeds) // size))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} of {len(paths)} parts: run its command again.")
    return seeds, [np.load(path, mmap_mode="r") for path in paths]


def pick(parts: Sequence[Array], indices: Array) -> Array:
    """Rows of an array that lies in parts of the usual size."""
    return np.stack([parts[index // _PART][index % _PART] for index in indices])


def _part(folder: Path, index: int) -> Path:
    return folder / f"{index:04d}.npy"


def _make_part(folder: Path, make: Make, work: tuple[int, Sequence[int]]) -> int:
    index, seeds = work
    array, path = make(seeds), _part(folder, index)
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as stream:
        np.save(stream, array)
    os.replace(beside, path)
    return len(seeds)


def _check_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    path, text = folder / "recipe.json", json.dumps(recipe, indent=1, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_atomic(path, text.encode())
    elif path.read_text() != text:
        raise InputError(f"{folder} was made from other settings or by another renderer: delete it to make it anew.")
