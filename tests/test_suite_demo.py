"""The demo suite: each edit is a function of seed, index and width, says what it does, and shows it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from sparsedit.errors import InputError
from sparsedit.suites.brackets import bracketed, strip_brackets
from sparsedit.suites.demo import KINDS, MAX_SEED, DemoItem, demo_item, demo_items
from sparsedit.suites.item import EDIT_TYPES
from sparsedit.suites.pie import load_pie
from sparsedit.suites.scenes.caption import caption
from sparsedit.suites.scenes.edits import EDITS, sample_edit

ONE_OF_EACH = demo_items(len(KINDS))


drawn = cache(DemoItem.pictures)


def name(item: DemoItem) -> str:
    return item.edit.kind


def changed(a: Image.Image | None, b: Image.Image | None) -> np.ndarray:
    """Levels by which two pictures differ, [H, W]."""
    assert a is not None
    assert b is not None
    return np.asarray(ImageChops.difference(a, b)).max(-1)


def test_an_edit_depends_on_nothing_but_seed_index_and_width() -> None:
    many = demo_items(25, seed=3)
    assert many[:5] == demo_items(5, seed=3)
    assert [demo_item(index, seed=3) for index in reversed(range(1, 25, 2))] == many[1::2][::-1]
    for one, again in zip(many[:3], demo_items(3, seed=3), strict=True):
        first, second = one.pictures(), again.pictures()
        assert first.original.tobytes() == second.original.tobytes()
        assert first.mask.tobytes() == second.mask.tobytes()


def test_seeds_widths_and_indices_give_other_edits() -> None:
    items = [*ONE_OF_EACH, *demo_items(19, seed=1), *demo_items(19, width=512)]
    assert len({item.edit.source for item in items}) == len(items)


def test_ids_name_type_seed_and_index() -> None:
    item = demo_item(17, seed=42)
    assert item.id == f"{item.edit_type}00042000017"
    assert len({item.id for seed in (0, 1, MAX_SEED) for item in demo_items(5, seed=seed)}) == 15


@pytest.mark.parametrize("count", [19, 20, 50])
def test_every_kind_is_as_frequent_as_any(count: int) -> None:
    kinds = Counter(item.edit.kind for item in demo_items(count, seed=5))
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) - min(kinds.values()) <= 1


def test_the_order_of_kinds_changes_from_round_to_round() -> None:
    kinds = [item.edit.kind for item in demo_items(2 * len(KINDS), seed=2)]
    assert kinds[: len(KINDS)] != kinds[len(KINDS) :]


@pytest.mark.parametrize("item", ONE_OF_EACH, ids=name)
def test_pictures_and_mask_belong_together(item: DemoItem) -> None:
    pictures = drawn(item)
    assert pictures.original.size == (256, 256)
    assert pictures.mask.shape == (256, 256)
    assert pictures.mask.sum() > 300
    assert changed(pictures.original, pictures.truth)[~pictures.mask].max(initial=0) <= 10
    assert changed(pictures.original, pictures.painted)[~pictures.mask].max(initial=0) == 0
    assert (changed(pictures.original, pictures.painted) > 10).any()


def test_strokes_bring_the_picture_nearer_to_the_truth() -> None:
    """In plain colours, shadows left out, most edits are already near what they should become."""
    ratios = []
    for item in ONE_OF_EACH:
        pictures = drawn(item)
        before, after = (
            np.square(changed(picture, pictures.truth)[pictures.mask].astype(float)).mean()
            for picture in (pictures.original, pictures.painted)
        )
        ratios.append(after / before)
    assert np.median(ratios) < 0.25


@pytest.mark.parametrize("item", ONE_OF_EACH, ids=name)
def test_words_say_what_changes(item: DemoItem) -> None:
    assert "[" in item.bracketed_source + item.bracketed_target
    assert (item.source_prompt, item.target_prompt) == (item.edit.source_prompt, item.edit.target_prompt)
    assert "[" not in item.source_prompt + item.target_prompt
    assert item.source_prompt != item.target_prompt
    assert item.edit_type_name == EDIT_TYPES[item.edit_type]
    assert item.instruction
    assert "{" not in item.instruction
    assert "None" not in item.instruction
    for word, prompt in zip(item.blended_word.split(), (item.source_prompt, item.target_prompt), strict=False):
        assert word in prompt.replace(",", "").split()
    assert len(item.blended_word.split()) in (0, 2)


def test_no_wording_hides_the_edit() -> None:
    """One wording in twelve leaves out a roof's colour, which a recoloured roof cannot do without."""
    edits = [sample_edit(seed, "recolor_roof") for seed in range(40)]
    assert all(edit.source_prompt != edit.target_prompt for edit in edits)
    assert not all("roof" in caption(edit.source, seed, full=True) for seed, edit in enumerate(edits))


def test_edits_are_seen() -> None:
    """A boat behind a house, a sun behind mountains, trees without a place to grow would be no edits."""
    hiding = [item for item in demo_items(2 * len(KINDS), seed=2) if EDITS[item.edit.kind].may_hide]
    assert len(hiding) == 16
    for item in hiding:
        pictures = item.pictures()
        assert pictures.mask.sum() > 300
        assert (changed(pictures.original, pictures.painted) > 10).sum() > 80


@pytest.mark.parametrize("width", [256, 264, 512])
def test_wide_edits(width: int) -> None:
    pictures = demo_item(1, width=width).pictures()
    for picture in (pictures.original, pictures.painted, pictures.truth):
        assert picture is not None
        assert picture.size == (width, 256)
    assert pictures.mask.shape == (256, width)


def test_items_travel_to_other_processes() -> None:
    item = demo_item(4)
    assert pickle.loads(pickle.dumps(item)) == item


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: demo_item(-1), "no edit -1: its edits count from 0"),
        (lambda: demo_item(0, seed=-1), f"no seed -1: seeds go from 0 to {MAX_SEED}"),
        (lambda: demo_item(0, seed=MAX_SEED + 1), "seeds go from 0"),
        (lambda: demo_item(0, width=250), "cannot be 250 px wide"),
        (lambda: demo_items(0), "ask for at least one"),
    ],
)
def test_what_does_not_exist_is_refused(ask: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ask()


@pytest.mark.parametrize(
    ("source", "target", "marked"),
    [
        ("a red house by day", "a blue house by day", ("a [red] house by day", "a [blue] house by day")),
        (
            "a lake by day",
            "pines and a boat by a lake by day",
            ("a lake by day", "[pines and a boat by] a lake by day"),
        ),
        (
            "a red house and a boat",
            "a red house, pines and a boat",
            ("a red house and a boat", "a red house, [pines] and a boat"),
        ),
        ("a lake, the sun", "a lake, clouds and the sun", ("a lake, the sun", "a lake, [clouds] and the sun")),
        ("a lake at noon, the sun", "a lake at noon", ("a lake at noon, [the sun]", "a lake at noon")),
        ("pines", "snow", ("[pines]", "[snow]")),
        ("a lake", "a lake", ("a lake", "a lake")),
    ],
)
def test_brackets_enclose_the_changed_words(source: str, target: str, marked: tuple[str, str]) -> None:
    assert bracketed(source, target) == marked
    assert tuple(map(strip_brackets, marked)) == (source, target)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsedit.suites.demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_writes_a_folder(tmp_path: Path) -> None:
    done = run("--to", str(tmp_path / "suite"), "--count", "3", "--size", "512x256", "--seed", "9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 edits" in done.stdout
    items = load_pie(tmp_path / "suite")
    assert [item.id for item in items] == [item.id for item in demo_items(3, seed=9, width=512)]
    assert items[0].pictures().original.size == (512, 256)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "512x512"], "cannot be drawn at 512x512: a size is WIDTHx256"),
        (["--size", "wide"], "cannot be drawn at wide"),
        (["--size", "250x256"], "cannot be 250 px wide"),
        (["--seed", "-1"], "no seed -1"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = run("--to", str(tmp_path / "suite"), "--count", "3", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "suite").exists()
