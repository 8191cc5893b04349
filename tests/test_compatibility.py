"""The compatibility page: what its cells mean, and that what they are made from are the published layouts, narrowed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compatibility import Row, edit_mask, page, summary
from benchmarks.shrunk import WIDTH, save_shrunk
from sparsedit.models.loading import empty_pipeline, load_pipeline
from sparsedit.models.presets import PRESETS


def test_a_cell_is_a_tick_an_error_or_a_dash_with_its_reason() -> None:
    ways: dict[str, float | str] = {"warm": 9e-5, "alongside": 0.25, "cold": "its steps cannot be skipped"}
    text = page([Row("sdxl", "sdedit", "folder, file", ways, 0.0123, 0.034, None)], [], "a square")
    assert "| sdxl | sdedit | folder, file | ✓ | off by 0.25 | – | 1.2% | 3.4% | – |" in text
    assert "* sdxl, cold: its steps cannot be skipped" in text
    assert "with a square" in text


def test_the_short_table_has_a_line_a_model() -> None:
    exact: dict[str, float | str] = {"warm": 0.0, "alongside": 0.0, "cold": 0.0}
    some: dict[str, float | str] = {"warm": 0.0, "alongside": 0.25, "cold": "its steps cannot be skipped"}
    rows = [Row("a", "sdedit", "folder", exact), Row("a", "inpaint", "folder", some), Row("a", "pan", "folder", {})]
    rows += [Row("b", "pan", "folder, file", {"warm": math.nan}, unet=0.034)]
    text = summary(rows)
    assert "| a | folder | ✓ | warm ✓, alongside off by 0.25 | – | – | – | – |" in text
    assert "| b | folder, file | – | – | – | – | warm runs | 3.4% |" in text


def test_a_rectangle_stands_in_for_the_published_case(tmp_path: Path) -> None:
    mask, source = edit_mask(tmp_path)
    assert mask.float().mean() == pytest.approx(0.0172, rel=0.01)
    assert source == "a rectangle of 1.72 % of the pixels"


@pytest.mark.parametrize("name", ["sdxl-refiner", "sdxs-512", "ddim-church"])
def test_a_narrow_copy_keeps_the_layout(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]
    pipe: Any = load_pipeline(str(save_shrunk(preset, tmp_path)), dtype="float32", device="cpu")
    assert type(pipe).__name__ == preset.pipeline
    full: Any = empty_pipeline(name)
    assert pipe.unet.config.down_block_types == full.unet.config.down_block_types
    assert set(pipe.unet.config.block_out_channels) == {WIDTH}
    assert len(pipe.unet.config.block_out_channels) == len(full.unet.config.block_out_channels)
