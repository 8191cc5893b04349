"""The demo suite: edits of landscapes, as many as one likes, drawn when they are asked for.

    python -m sparsedit.suites.demo --to DIR --count N      writes the first N as a folder in PIE-Bench's layout

Edit `index` of a seed and a width is always the same, whatever else is drawn, in which order and on which machine.
The edited scene is rendered too, so here, unlike in PIE-Bench, it is known what an edit should have made. Types
that the renderer has no edits for (random, content, pose, style) do not occur.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sparsedit.errors import InputError, SparseditError
from sparsedit.suites.brackets import bracketed
from sparsedit.suites.item import Pictures, SuiteItem
from sparsedit.suites.pie import write_pie
from sparsedit.suites.scenes.edits import EDITS, SceneEdit, draw_edit, sample_edit
from sparsedit.suites.scenes.scene import BASE_WIDTH, HEIGHT

KINDS = tuple(EDITS)

# An id has five digits for the seed.
MAX_SEED = 99_999


@dataclass(frozen=True)
class DemoItem(SuiteItem):
    """An edit of a landscape. Its id, as in PIE-Bench twelve digits long and led by the type, names seed and index."""

    edit: SceneEdit

    def pictures(self) -> Pictures:
        pair = draw_edit(self.edit)
        return Pictures(
            original=Image.fromarray(pair.source_picture),
            mask=pair.mask,
            painted=Image.fromarray(pair.painted),
            truth=Image.fromarray(pair.target_picture),
        )


def demo_item(index: int, *, seed: int = 0, width: int = BASE_WIDTH) -> DemoItem:
    """Edit `index` of the suite of a seed, 256 px high; `width` is a multiple of 8, at least 256 px.

    Every run of `len(KINDS)` edits from the first on has each kind once, in an order of its own. Raises InputError
    for a negative index, another width and a seed outside 0 to MAX_SEED.
    """
    if index < 0:
        raise InputError(f"The demo suite has no edit {index}: its edits count from 0.")
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"The demo suite has no seed {seed}: seeds go from 0 to {MAX_SEED}.")
    edit = sample_edit(_seed_of(index, seed), _kind_of(index, seed), width=width)
    bracketed_source, bracketed_target = bracketed(edit.source_prompt, edit.target_prompt)
    return DemoItem(
        id=f"{edit.edit_type}{seed:05d}{index:06d}",
        edit_type=edit.edit_type,
        bracketed_source=bracketed_source,
        bracketed_target=bracketed_target,
        instruction=edit.instruction,
        blended_word=edit.blended_word,
        edit=edit,
    )


def demo_items(count: int, *, seed: int = 0, width: int = BASE_WIDTH) -> list[DemoItem]:
    """The first `count` edits of a seed; nothing is drawn yet. Raises InputError as `demo_item` does."""
    if count < 1:
        raise InputError(f"The demo suite has no {count} edits: ask for at least one.")
    return [demo_item(index, seed=seed, width=width) for index in range(count)]


def _seed_of(index: int, seed: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _kind_of(index: int, seed: int) -> str:
    block, place = divmod(index, len(KINDS))
    return KINDS[np.random.default_rng([seed, block]).permutation(len(KINDS))[place]]


def _width_of(size: str) -> int:
    """The width of a size as typed, `512x256`. Raises InputError for what is no size and for another height."""
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None or int(match[2]) != HEIGHT:
        raise InputError(f"The demo suite cannot be drawn at {size}: a size is WIDTHx{HEIGHT}, as in 512x{HEIGHT}.")
    return int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparsedit.suites.demo", description="Write the demo suite in PIE-Bench's layout."
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder that is new or empty")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="number of edits")
    parser.add_argument("--size", default=f"{BASE_WIDTH}x{HEIGHT}", metavar="WxH", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        items = demo_items(arguments.count, seed=arguments.seed, width=_width_of(arguments.size))
        write_pie(items, arguments.to)
    except SparseditError as error:
        parser.error(str(error))
    print(f"{arguments.to}: {len(items)} edits")


if __name__ == "__main__":
    main()
