"""Run lengths: encoding and decoding are inverse, decoding is PIE-Bench's own, and what is no mask is refused."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsedit.errors import InputError
from sparsedit.suites.rle import decode, encode, runs_fault

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def painted_one_by_one(runs: list[int], height: int, width: int) -> np.ndarray:
    """The definition: each run sets `length` pixels from `start` on, counted row after row."""
    mask = np.zeros((height, width), dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for pixel in range(start, start + length):
            mask[pixel // width, pixel % width] = True
    return mask


@given(masks)
def test_a_mask_comes_back(mask: np.ndarray) -> None:
    assert (decode(encode(mask), *mask.shape) == mask).all()


@given(masks)
def test_runs_are_as_few_as_can_be(mask: np.ndarray) -> None:
    runs = encode(mask)
    starts, ends = np.array(runs[::2], int), np.array(runs[::2], int) + np.array(runs[1::2], int)
    assert all(isinstance(number, int) for number in runs)
    assert (ends > starts).all()
    assert (starts[1:] > ends[:-1]).all()


@given(masks, st.randoms())
def test_runs_in_any_order_and_pieces_are_decoded_as_defined(mask: np.ndarray, random: Random) -> None:
    pieces = [(start + i, 1) for start, length in zip(*[iter(encode(mask))] * 2, strict=True) for i in range(length)]
    random.shuffle(pieces)
    runs = [number for piece in pieces for number in piece]
    assert (decode(runs, *mask.shape) == painted_one_by_one(runs, *mask.shape)).all()
    assert (decode(runs, *mask.shape) == mask).all()


@given(st.lists(st.integers(-2, 40) | st.integers(), max_size=8), st.integers(1, 8), st.integers(1, 8))
def test_any_numbers_are_the_mask_they_define_or_a_sentence(runs: list[int], height: int, width: int) -> None:
    if runs_fault(runs, height * width):
        with pytest.raises(InputError, match=f"The runs are no mask of {width}x{height} pixels: "):
            decode(runs, height, width)
    else:
        assert (decode(runs, height, width) == painted_one_by_one(runs, height, width)).all()


def test_runs_go_on_in_the_next_row() -> None:
    assert decode([2, 3], 2, 4).tolist() == [[False, False, True, True], [True, False, False, False]]
    assert encode(np.ones((512, 512), bool)) == [0, 512 * 512]
    assert encode(np.zeros((4, 4), bool)) == []
    assert not decode([], 4, 4).any()


@pytest.mark.parametrize(
    ("runs", "fault"),
    [
        ([0, 1, 5], "a start without a length: there are 3 numbers"),
        ([-1, 2], "-1 is negative"),
        ([3, -2], "-2 is negative"),
        ([0, 4, 3, 2], "the run of 2 from 3 begins before the one ahead of it ends"),
        ([3, 2, 0, 4], "the run of 2 from 3 begins before"),
        ([15, 2], "they end at pixel 17 of 16"),
        ([16, 1], "they end at pixel 17 of 16"),
        ([0, 10**30], "of 16"),
    ],
)
def test_what_is_no_mask_is_refused(runs: list[int], fault: str) -> None:
    with pytest.raises(InputError, match="no mask of 8x2 pixels") as caught:
        decode(runs, 2, 8)
    assert fault in str(caught.value)


def test_without_a_size_only_the_end_is_not_judged() -> None:
    assert runs_fault([15, 2]) == ""
    assert runs_fault([15, 2], 16)
    assert runs_fault([15, 1], 16) == ""
    assert runs_fault([15, 2, 16, 1])
