"""Canny edges: thresholds as OpenCV's users know them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsedit.canny import canny
from sparsedit.errors import SettingsError


def edges(levels: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    return np.asarray(canny(Image.fromarray(levels), low, high))[..., 0] > 0


def step(before: int, after: int, size: int = 16) -> np.ndarray:
    """A grey picture that changes from one level to another at its middle column."""
    levels = np.full((size, size), before, np.uint8)
    levels[:, size // 2 :] = after
    return levels


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_straight_step_has_four_times_its_height(turns):
    levels = np.rot90(step(60, 110), turns)
    assert edges(levels, 199, 199)[1:-1, 1:-1].any(axis=(turns + 1) % 2).all()  # the whole line
    assert not edges(levels, 201, 201).any()


def test_a_diagonal_step_is_measured_by_its_euclidean_length():
    # Sobel finds 150 along both axes: 212 together, where OpenCV's default would add up 300.
    levels = np.where(np.add.outer(np.arange(16), np.arange(16)) < 16, 60, 110).astype(np.uint8)
    assert edges(levels, 211, 211).sum() > 10
    assert not edges(levels, 213, 213).any()


def test_a_weak_edge_stays_where_it_hangs_together_with_a_strong_one():
    levels = step(60, 90)  # weak: 120
    assert not edges(levels).any()
    levels[4:8, 8:] = 130
    assert edges(levels)[1:-1].any(axis=1).all()


def test_a_step_of_colour_at_equal_brightness_is_an_edge():
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8], picture[:, 8:] = (200, 0, 0), (0, 102, 0)
    grey = np.asarray(Image.fromarray(picture).convert("L")).astype(int)
    assert abs(grey[0, 0] - grey[0, 15]) <= 1
    assert edges(picture)[1:-1].any(axis=1).all()


def test_the_result_is_white_on_black_of_the_same_size():
    picture = canny(Image.fromarray(step(0, 255)).resize((40, 24), Image.Resampling.NEAREST))
    assert (picture.mode, picture.size) == ("RGB", (40, 24))
    assert set(np.unique(picture)) == {0, 255}
    assert (np.ptp(np.asarray(picture), axis=2) == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2)])
def test_a_picture_that_is_all_border_has_no_edges(size):
    assert not np.asarray(canny(Image.effect_noise(size, 90))).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 400), st.floats(0, 400), st.floats(1, 2))
def test_higher_thresholds_leave_fewer_edges(seed, low, gap, factor):
    levels = np.random.default_rng(seed).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    assert not (edges(levels, factor * low, factor * (low + gap)) & ~edges(levels, low, low + gap)).any()


@pytest.mark.parametrize(("low", "high"), [(200, 100), (-1, 100), (float("nan"), 100)])
def test_thresholds_that_make_no_sense_are_a_sentence(low, high):
    with pytest.raises(SettingsError, match="at most the upper, such as 100 and 200"):
        canny(Image.new("RGB", (8, 8)), low, high)


def test_importing_it_imports_no_torch():
    code = "import sys, sparsedit.canny; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
