"""PIE-Bench's folder: what is written is read again, masks are decoded to the letter, hostile mappings are refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsedit.errors import InputError
from sparsedit.suites.demo import DemoItem, demo_item, demo_items
from sparsedit.suites.item import EDIT_TYPES, Pictures
from sparsedit.suites.pie import PieItem, load_pie, with_border, write_pie
from sparsedit.suites.selection import select

ENTRY = {
    "image_path": "0_random_140/000000000000.jpg",
    "original_prompt": "a slanted mountain bicycle on the road",
    "editing_prompt": "a slanted [rusty] mountain bicycle on the road",
    "editing_instruction": "Make the frame of the bike rusty",
    "editing_type_id": "0",
    "blended_word": "bicycle bicycle",
    "mask": [5, 3, 20, 1],
}


def folder_with(tmp_path: Path, mapping: object, pictures: tuple[str, ...] = (str(ENTRY["image_path"]),)) -> Path:
    """A PIE-Bench folder of 8x6 pictures with this mapping, as JSON or as text."""
    for name in pictures:
        path = tmp_path / "annotation_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "teal").save(path)
    text = mapping if isinstance(mapping, str) else json.dumps(mapping)
    (tmp_path / "mapping_file.json").write_text(text)
    return tmp_path


def entry(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"000000000000": {**ENTRY, **changes}}


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_pie(folder)
    return str(caught.value)


def pie_item(name: str, edit_type: int) -> PieItem:
    return PieItem(name, edit_type, "a cat", "a dog", "", "", Path("a.jpg"), None, ())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    items = demo_items(6, seed=1)
    write_pie(items, tmp_path / "suite")
    read = load_pie(tmp_path / "suite")
    assert len(read) == 6
    for item, again in zip(items, read, strict=True):
        for field in ("id", "edit_type", "bracketed_source", "bracketed_target", "instruction", "blended_word"):
            assert getattr(again, field) == getattr(item, field)
        drawn, opened = item.pictures(), again.pictures()
        assert (opened.mask == drawn.mask).all()
        assert opened.painted is None
        for before, after in ((drawn.original, opened.original), (drawn.truth, opened.truth)):
            assert before is not None
            assert after is not None
            assert np.abs(np.asarray(before, float) - np.asarray(after)).mean() < 2


def test_the_written_folder_is_pie_benchs(tmp_path: Path) -> None:
    items = demo_items(4)
    write_pie(items, tmp_path)
    mapping = json.loads((tmp_path / "mapping_file.json").read_text())
    counts = Counter(item.edit_type for item in items)
    for item in items:
        said = mapping[item.id]
        assert set(said) == set(ENTRY)
        assert said["editing_type_id"] == str(item.edit_type)
        assert all(type(number) is int for number in said["mask"])
        folder, file = said["image_path"].split("/")
        assert file == f"{item.id}.jpg"
        assert folder.startswith(f"{item.edit_type}_")
        assert folder.endswith(f"_{counts[item.edit_type]}")
        for root in ("annotation_images", "edited_images"):
            with Image.open(tmp_path / root / said["image_path"]) as image:
                assert (image.format, image.size) == ("JPEG", (256, 256))
    assert not list(tmp_path.rglob("*.tmp"))


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pie(demo_items(2), tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_folder_in_use_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        write_pie(demo_items(1), tmp_path)
    with pytest.raises(InputError, match=r"notes\.txt cannot be made"):
        write_pie(demo_items(1), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class Torn(DemoItem):
    """An item that is interrupted while it is drawn."""

    def pictures(self) -> Pictures:
        raise KeyboardInterrupt


def test_an_unfinished_folder_has_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_pie([demo_item(0), Torn(**vars(demo_item(1)))], tmp_path)
    assert len(list(tmp_path.rglob("*.jpg"))) == 2
    assert "has no mapping_file.json" in refusal(tmp_path)


def test_words_and_masks_are_read_to_the_letter(tmp_path: Path) -> None:
    [item] = load_pie(folder_with(tmp_path, entry(unheard_of=1)))
    assert item.id == "000000000000"
    assert item.target_prompt == "a slanted rusty mountain bicycle on the road"
    assert item.bracketed_target == ENTRY["editing_prompt"]
    assert item.edit_type_name == "random"
    pictures = item.pictures()
    assert pictures.truth is None
    assert np.flatnonzero(pictures.mask).tolist() == [5, 6, 7, 20]
    assert pictures.mask.shape == (6, 8)


def test_pictures_are_opened_when_asked_for(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, entry())
    (folder / "annotation_images" / str(ENTRY["image_path"])).write_bytes(b"not a picture")
    [item] = load_pie(folder)
    with pytest.raises(InputError, match="is not a PNG, JPEG"):
        item.pictures()


def test_the_border_is_the_reference_evaluators(tmp_path: Path) -> None:
    [item] = load_pie(folder_with(tmp_path, entry(mask=[20, 1])))
    mask = item.pictures().mask
    bordered = with_border(mask)
    assert mask.sum() == 1
    assert np.array2string(bordered.astype(int), separator="") == (
        "[[11111111]\n [10000001]\n [10001001]\n [10000001]\n [10000001]\n [11111111]]"
    )


def test_names_of_the_types_are_pie_benchs() -> None:
    assert list(EDIT_TYPES) == list(range(10))
    assert [EDIT_TYPES[number] for number in (0, 3, 9)] == ["random", "delete object", "change style"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask": [1, 2, 3]}, "000000000000.mask: is no mask: a start without a length"),
        ({"mask": [0, 5, 4, 2]}, "000000000000.mask: is no mask: the run of 2 from 4 begins before"),
        ({"mask": [-4, 2]}, "000000000000.mask: is no mask: -4 is negative"),
        ({"mask": [0, 1.5]}, "000000000000.mask[1]: must be a whole number, not 1.5"),
        ({"mask": [True, 1]}, "000000000000.mask[0]: must be a whole number, not true"),
        ({"mask": "0 5"}, "000000000000.mask: must be a list"),
        ({"editing_type_id": "10"}, """editing_type_id: must be one of "0" to "9", not '10'"""),
        ({"editing_type_id": "01"}, "editing_type_id: must be one of"),
        ({"editing_type_id": 1}, "editing_type_id: must be text, not 1"),
        ({"original_prompt": None}, "original_prompt: must be text, not null"),
        ({"image_path": "0_random_140/none.jpg"}, "'0_random_140/none.jpg' does not exist (sought in"),
        ({"image_path": "../mapping_file.json"}, "'../mapping_file.json' lies outside"),
        ({"image_path": "/etc/hostname"}, "'/etc/hostname' lies outside"),
        ({"image_path": "0_random_140"}, "is a folder, not a file"),
        ({"image_path": "a\0b"}, "cannot be"),
        ({"image_path": ""}, "is a folder, not a file"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    said = refusal(folder_with(tmp_path, entry(**changes)))
    assert str(tmp_path / "mapping_file.json") in said
    assert sentence in said


@pytest.mark.parametrize("key", ENTRY)
def test_no_key_may_be_missing(tmp_path: Path, key: str) -> None:
    partial = {name: value for name, value in ENTRY.items() if name != key}
    assert f"000000000000.{key}: is missing" in refusal(folder_with(tmp_path, {"000000000000": partial}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not json", "is not JSON"),
        ("", "is empty"),
        ("[]", "the top level: must be a mapping"),
        ("{}", "must have at least 1"),
        ('{"0": 1}', "must be a mapping"),
        ('{"0": {}, "0": {}}', "the key '0' comes twice"),
        ('{"../../0": {}}', "must be letters, digits"),
        ("[" * 100_000, "is not JSON"),
        ('{"0": {"mask": [' + "9" * 5000 + "]}}", "is not JSON"),
    ],
)
def test_a_mapping_that_is_none_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(folder_with(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mapping_file.json").write_bytes(b'{"\xff\xfe": 1}')
    assert "is not JSON" in refusal(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (8, 6)).save(secret)
    folder = folder_with(tmp_path / "pie", entry(image_path="link.jpg"))
    os.symlink(secret, folder / "annotation_images" / "link.jpg")
    assert "'link.jpg' lies outside" in refusal(folder)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'} is no PIE-Bench folder: it has no mapping_file.json."
    )


def test_many_faults_are_told_in_part(tmp_path: Path) -> None:
    said = refusal(folder_with(tmp_path, {f"{number:012}": {**ENTRY, "editing_type_id": "x"} for number in range(30)}))
    assert "has 30 errors" in said
    assert said.endswith("and 20 more")


def test_a_mask_beyond_the_picture_is_refused_with_its_id(tmp_path: Path) -> None:
    [item] = load_pie(folder_with(tmp_path, entry(mask=[40, 9])))
    with pytest.raises(InputError, match=r"The mask of 000000000000 does not fit .*they end at pixel 49 of 48"):
        item.pictures()


def test_truths_are_all_there_and_of_the_originals_size(tmp_path: Path) -> None:
    write_pie([demo_item(0)], tmp_path)
    [truth] = (tmp_path / "edited_images").rglob("*.jpg")
    Image.new("RGB", (8, 6)).save(truth)
    with pytest.raises(InputError, match="of different sizes"):
        load_pie(tmp_path)[0].pictures()
    truth.unlink()
    assert "does not exist (sought in" in refusal(tmp_path)


SUITE = [pie_item(f"{number}{count:011}", number) for number, size in enumerate((14, 8, 8, 4)) for count in range(size)]


def test_types_and_ids_choose_and_keep_the_order() -> None:
    assert select(SUITE) == SUITE
    assert {item.edit_type for item in select(SUITE, types=[3, 1])} == {1, 3}
    assert select(SUITE, ids=[SUITE[9].id, SUITE[2].id]) == [SUITE[2], SUITE[9]]
    assert select(SUITE, types=[1], ids=[SUITE[2].id]) == []


@given(st.integers(1, 40), st.integers(0, 5), st.randoms())
def test_a_limit_takes_from_every_type_its_share(limit: int, seed: int, random: Any) -> None:
    chosen = select(SUITE, limit=limit, seed=seed)
    assert len(chosen) == min(limit, len(SUITE))
    sizes, taken = (Counter(item.edit_type for item in items) for items in (SUITE, chosen))
    if limit >= len(sizes):
        for number, size in sizes.items():
            assert abs(taken[number] - limit * size / len(SUITE)) <= 2 or limit > len(SUITE)
            assert taken[number] >= 1
    else:
        assert max(taken.values()) == 1
    assert chosen == [item for item in SUITE if item in chosen]
    assert set(chosen) <= set(select(SUITE, limit=limit + 1, seed=seed))
    shuffled = random.sample(SUITE, len(SUITE))
    assert set(select(shuffled, limit=limit, seed=seed)) == set(chosen)


def test_the_seed_decides_which() -> None:
    chosen = {tuple(item.id for item in select(SUITE, limit=8, seed=seed)) for seed in range(10)}
    assert len(chosen) == 10


def test_a_choice_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"of type 5; there are 0 \(random\), 1 \(change object\)"):
        select(SUITE, types=[5])
    with pytest.raises(InputError, match=r"has the id '00000000013x'; did you mean '000000000013'\?"):
        select(SUITE, ids=["00000000013x"])
    with pytest.raises(InputError, match="at least 1, not 0"):
        select(SUITE, limit=0)
