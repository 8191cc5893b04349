"""Suites as a bench runs them: folders, the hub's copy of PIE-Bench, SIGE's cases, and which edits are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from sparsedit.errors import InputError, ManifestError
from sparsedit.suites.catalogue import choose, open_suite
from sparsedit.suites.demo import demo_items
from sparsedit.suites.edit import DERIVED, GIVEN
from sparsedit.suites.hub import CONFIGURATIONS, NAME, hub_suite
from sparsedit.suites.pie import write_pie
from sparsedit.suites.rle import encode
from tests.bench_folder import LINES, write_folder

SIZE = 512


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "suite")


def test_a_folder_is_a_suite(folder: Path) -> None:
    suite = open_suite("folder", folder)
    a, b, c = suite.edits
    assert (a.id, a.prompt, a.edit_prompt, a.edit_type) == ("a", "a house", "a red house", "add object")
    assert b.edit_prompt == b.prompt == "a tree"
    assert c.prompt == "a lake, calm"
    assert [edit.settings[0]["task"] for edit in suite.edits] == ["sdedit", "sdedit", "inpaint"]
    assert [edit.track for edit in suite.edits] == [DERIVED, DERIVED, GIVEN]
    inputs = c.open()
    assert inputs.edited is None
    assert inputs.mask is not None
    assert int(inputs.mask.sum()) == 14 * 14


def test_a_folders_data_are_what_its_files_hold(folder: Path, tmp_path: Path) -> None:
    before = open_suite("folder", folder).data
    assert open_suite("folder", write_folder(tmp_path / "other")).data == before
    Image.new("RGB", (96, 64)).save(folder / "edited" / "a.png")
    assert open_suite("folder", folder).data != before


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (LINES[:-1], r"no line for (original|masks)/c.png"),
        ((*LINES, "d,a cat,,"), "a line for 'd'"),
        ((*LINES, "a,again,,"), "line 5: 'a' has a line already"),
        ((*LINES, "../a,out,,"), "line 5: name: must be letters"),
        ((*LINES, "d,a, cat,,more"), "line 5: more values than columns"),
        (("name;prompt",), "must have the columns"),
        (LINES[:1], "has no lines"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(lines: tuple[str, ...], sentence: str, folder: Path) -> None:
    (folder / "prompts.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=sentence):
        open_suite("folder", folder)


def test_an_original_of_which_nothing_says_what_changes_is_refused(folder: Path) -> None:
    (folder / "masks" / "c.png").unlink()
    with pytest.raises(InputError, match="Nothing says what to change"):
        open_suite("folder", folder)


def hub_rows(count: int, **changes: Any) -> datasets.Dataset:
    """Rows as the hub's copy has them."""
    pictures = [Image.fromarray(np.full((SIZE, SIZE, 3), 40 * place, dtype=np.uint8)) for place in range(count)]
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[100:120, 30:70] = True
    row = {
        "source_prompt": "a [round] cake",
        "target_prompt": "a [square] cake",
        "edit_action": "{'square': {'position': 1}}",
        "aspect_mapping": "{}",
        "blended_words": "['cake,cake']",
        "mask": " ".join(map(str, encode(mask))),
    } | changes
    columns: dict[str, Any] = {key: [value] * count for key, value in row.items()}
    columns |= {"id": [f"{place:012}" for place in range(count)], "image": pictures}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def test_the_hubs_copy_is_a_suite_of_its_own_name(tmp_path: Path) -> None:
    hub_rows(2).save_to_disk(str(tmp_path / CONFIGURATIONS[0]))
    folder = tmp_path / CONFIGURATIONS[6]
    folder.mkdir()
    hub_rows(1, source_prompt="a cat").to_parquet(folder / "V1-00000-of-00001.parquet")
    suite = hub_suite(tmp_path)
    assert suite.name == NAME != "pie"
    assert [edit.edit_type for edit in suite.edits] == ["random", "random", "change colour"]
    assert (suite.edits[0].prompt, suite.edits[0].edit_prompt) == ("a round cake", "a square cake")
    inputs = suite.edits[1].open()
    assert inputs.mask is not None
    assert (inputs.original.size, int(inputs.mask.sum())) == ((SIZE, SIZE), 20 * 40)
    assert inputs.original.getpixel((0, 0)) == (40, 40, 40)
    assert set(suite.data) == {CONFIGURATIONS[0], CONFIGURATIONS[6]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask": "1 2 3"}, "a start without a length"),
        ({"mask": "one two"}, "invalid literal"),
        ({"mask": f"{SIZE * SIZE} 4"}, None),
    ],
)
def test_a_mask_of_the_hub_that_is_none_is_refused(
    changes: dict[str, str], sentence: str | None, tmp_path: Path
) -> None:
    hub_rows(1, **changes).save_to_disk(str(tmp_path / CONFIGURATIONS[3]))
    if sentence is not None:
        with pytest.raises(InputError, match=sentence):
            hub_suite(tmp_path)
        return
    with pytest.raises(InputError, match="does not fit its picture"):
        hub_suite(tmp_path).edits[0].open()


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration of"):
        hub_suite(tmp_path)


def test_a_written_demo_suite_is_a_pie_suite_with_truth(tmp_path: Path) -> None:
    write_pie(demo_items(2), tmp_path / "pie")
    suite = open_suite("pie", tmp_path / "pie")
    assert [edit.track for edit in suite.edits] == [GIVEN, GIVEN]
    inputs = suite.edits[0].open()
    assert inputs.truth is not None
    assert inputs.truth.size == inputs.original.size


def test_siges_cases_need_their_data(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--data DIR must name"):
        open_suite("sige")
    picture = Image.new("RGB", (64, 32))
    for name in ("sdedit0_original", "sdedit0_edited", "inpaint_original"):
        picture.save(tmp_path / f"{name}.png")
    np.save(tmp_path / "inpaint_mask.npy", np.eye(32, 64, dtype=bool))
    suite = open_suite("sige", tmp_path)
    assert [(edit.id, edit.track) for edit in suite.edits] == [("sdedit0/sun", DERIVED), ("inpaint/meadow", GIVEN)]
    assert [edit.id for edit in choose(suite, ids=["sdedit0"]).edits] == ["sdedit0/sun"]
    assert (suite.name, suite.model) == ("sige", "demo")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("dmeo", None, "did you mean 'demo'"),
        ("pie", None, "--data DIR"),
        ("folder", Path("nowhere"), "nowhere is not a folder"),
        ("demo", Path(), "--data has nothing to say"),
    ],
)
def test_a_suite_that_cannot_be_is_refused(name: str, data: Path | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        open_suite(name, data)


def test_types_are_names_or_numbers(folder: Path) -> None:
    suite = open_suite("folder", folder)
    assert [edit.id for edit in choose(suite, types=["delete object"]).edits] == ["c"]
    assert choose(suite, types=["2"]).edits == choose(suite, types=["add object"]).edits == suite.edits[:2]
    assert {edit.edit_type for edit in choose(suite, limit=2).edits} == {"add object", "delete object"}
    with pytest.raises(InputError, match="there are add object, delete object"):
        choose(suite, types=["9"])
