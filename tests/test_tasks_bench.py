"""The bench of tasks: what is asked of the probe is what an edit changes, and its table says what rows say."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.tasks_kinds import KINDS
from benchmarks.tasks_read import CHANGED
from benchmarks.tasks_table import table
from sparsedit.suites.scenes.edits import EDITS, sample_edit
from training.attributes import attributes

ROW: dict[str, Any] = {
    "kind": "prompt", "edit": "add_house", "way": "warm", "mask_ratio": 0.1, "unet_share": 0.2, "share": 0.25,
    "inside_psnr": 31.0, "outside_equal": True, "background_dense": 20.0, "wanted": "red",
    "sparse_s": 2.0, "dense_s": 4.0, "fewer_inside_psnr": 28.0, "read_fewer": "none",
    "read_original": "none", "read_sparse": "red", "read_dense": "red", "read_rendered": "red",
}  # fmt: skip


def test_every_kind_of_edit_has_the_attribute_that_it_changes() -> None:
    assert CHANGED.keys() == EDITS.keys()


@pytest.mark.parametrize("kind", EDITS)
def test_the_attribute_is_another_one_afterwards(kind: str) -> None:
    for seed in range(3):
        edit = sample_edit(seed, kind)
        assert attributes(edit.source)[CHANGED[kind]] != attributes(edit.target)[CHANGED[kind]]


def test_kinds_that_are_not_words_move_or_draw() -> None:
    assert {kind.settings["task"] for kind in KINDS.values()} == {"prompt", "control", "pan", "rotate"}


def test_the_table_counts_dense_runs_in_the_means_and_says_how_often_both_show_it() -> None:
    missed = ROW | {"read_sparse": "none", "inside_psnr": 29.0, "sparse_s": 3.0}
    dense = ROW | {
        "way": "dense",
        "share": 1.0,
        "unet_share": 1.0,
        "inside_psnr": 60.0,
        "mask_ratio": 0.5,
        "sparse_s": 4.0,
    }
    lines = table([ROW, missed, dense, ROW | {"kind": "pan"} | {"wanted": None}]).splitlines()
    costs = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines[:4]}
    assert costs["prompt"][1:6] == ["3", "2", "10.0%", "0.467", "0.500"]
    assert costs["prompt"][8:10] == ["0.750", "0.625"]
    assert costs["prompt"][10:13] == ["30.0", "30.0", "1 of 2"]
    assert costs["prompt"][-1] == "28.0"
    (success,) = (line.strip("| ").split(" | ") for line in lines if line.startswith("| add_house"))
    assert success == ["add_house", "3", "0.0%", "66.7%", "100.0%", "-33.3", "0.0%", "66.7%", "100.0%"]
