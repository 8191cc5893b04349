"""Masks: what is read as one, and the properties of difference, dilation and feathering."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sparsedit.errors import InputError
from sparsedit.masks import difference, edit_ratio, feather, load_mask
from sparsedit.sparse import dilate

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)).map(torch.from_numpy)
widths = st.integers(0, 6)


def refusal(path: Path, size: tuple[int, int] = (4, 3)) -> str:
    with pytest.raises(InputError) as caught:
        load_mask(path, size)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_grey_from_the_middle_up_is_active(tmp_path: Path) -> None:
    levels = np.array([[0, 127, 128, 255]] * 3, dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "m.png")
    mask = load_mask(tmp_path / "m.png", (4, 3))
    assert (mask.dtype, mask.shape) == (torch.bool, (3, 4))
    assert mask[0].tolist() == [False, False, True, True]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_grey_valued_mask_may_have_any_mode(tmp_path: Path, mode: str) -> None:
    image = Image.new("L", (4, 3))
    image.paste(255, (1, 0, 3, 2))
    image.convert(mode).save(tmp_path / "m.png")
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[0:2, 1:3] = True
    assert load_mask(tmp_path / "m.png", (4, 3)).equal(expected)


def test_sixteen_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32000, 33000, 65535]] * 3, dtype=np.uint16)).save(tmp_path / "m.png")
    assert load_mask(tmp_path / "m.png", (4, 3))[0].tolist() == [False, False, True, True]


def test_colours_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (255, 255, 254)).save(tmp_path / "m.png")
    assert "has colours" in refusal(tmp_path / "m.png")


def test_transparency_is_refused(tmp_path: Path) -> None:
    Image.new("LA", (4, 3), (255, 0)).save(tmp_path / "m.png")
    assert "is transparent in places" in refusal(tmp_path / "m.png")


def test_another_size_names_both(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", np.zeros((3, 4), dtype=bool))
    for name in ("m.png", "m.npy"):
        assert "is 4x3 pixels, but its picture is 3x4" in refusal(tmp_path / name, (3, 4))


def test_a_broken_mask_is_refused_as_a_picture_is(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "m.png")
    assert "does not exist" in refusal(tmp_path / "m.npy")
    (tmp_path / "m.png").write_text("text")
    assert "is not a PNG" in refusal(tmp_path / "m.png")
    os.mkfifo(tmp_path / "pipe.npy")
    assert "is a pipe" in refusal(tmp_path / "pipe.npy")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(tmp_path: Path, dtype: Any, order: Any) -> None:
    values = np.asarray([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=dtype, order=order)
    np.save(tmp_path / "m.npy", values)
    mask = load_mask(tmp_path / "m.npy", (4, 3))
    assert mask.dtype == torch.bool
    assert mask.tolist() == values.astype(bool).tolist()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 3, 4), bool),
        np.zeros(12, bool),
        np.full((3, 4), 255, np.uint8),
        np.full((3, 4), 0.5),
        np.full((3, 4), np.nan),
        np.full((3, 4), "1"),
        np.zeros((3, 4), [("a", "?")]),
        np.zeros((3, 4), complex),
    ],
)
def test_arrays_of_anything_else(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "m.npy", values)
    assert "must be an array [H, W] of false and true or 0 and 1" in refusal(tmp_path / "m.npy")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.save(tmp_path / "m.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    assert "is not an array of numbers" in refusal(tmp_path / "m.npy")
    assert not (tmp_path / "sprung").exists()


def header(shape: str) -> bytes:
    text = f"{{'descr': '|b1', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"\x93NUMPY\x01",
        b"PK\x03\x04" + bytes(30),
        header("(3, 4)"),
        header("(3, 4)") + bytes(11),
        header("(1000000, 1000000)") + bytes(12),
        header("(-3, -4)") + bytes(12),
        header("(3, 4") + bytes(12),
        header("__import__('os')") + bytes(12),
        header("(0, 4)"),
        header("(" * 2000 + "3"),
        header("3L, 4L" + "\n " * 40 + "\n\t3"),
    ],
)
def test_broken_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npy").write_bytes(content)
    refusal(tmp_path / "m.npy")


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # NumPy parses the header as Python
def test_damaged_arrays_end_in_a_mask_or_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.npy"
    np.save(path, np.ones((3, 4), dtype=bool))
    whole = path.read_bytes()
    dice = random.Random(0)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(80)] = dice.choice(b"\x00\x01\xff'(){}[],:-0123456789|<>bBifOSUV \n")
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            assert load_mask(path, (4, 3)).shape == (3, 4)


# Difference


def test_difference_takes_the_largest_channel() -> None:
    a = torch.zeros(1, 3, 2, 2)
    b = a.clone()
    b[0, 1, 0, 1] = -0.5
    b[0, 2, 1, 0] = 0.25
    assert difference(a, b, 0.25).tolist() == [[False, True], [False, False]]
    assert difference(a, b, 0.2).tolist() == [[False, True], [True, False]]
    assert not difference(a, a, 0).any()


def test_the_default_threshold_ignores_two_levels_of_eight_bits() -> None:
    levels = torch.arange(5).reshape(1, 1, 1, 5).expand(1, 3, 1, 5) / 127.5 - 1
    assert difference(levels, torch.full_like(levels, -1.0), 0.02)[0].tolist() == [False] * 3 + [True] * 2


def test_difference_of_other_sizes_names_both() -> None:
    with pytest.raises(InputError, match="original is 6x4 pixels and the edited picture 4x6"):
        difference(torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 6, 4), 0.1)


# Dilation


@given(masks, widths)
def test_dilation_matches_brute_force(mask: torch.Tensor, px: int) -> None:
    rows, columns = mask.shape
    expected = [
        [bool(mask[max(0, y - px) : y + px + 1, max(0, x - px) : x + px + 1].any()) for x in range(columns)]
        for y in range(rows)
    ]
    assert dilate(mask, px).tolist() == expected


@given(masks, widths)
def test_dilation_is_extensive(mask: torch.Tensor, px: int) -> None:
    assert (dilate(mask, px) | ~mask).all()


@given(masks, widths, st.integers(0, 99))
def test_dilation_is_monotone(mask: torch.Tensor, px: int, seed: int) -> None:
    part = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5)
    assert (dilate(mask, px) | ~dilate(part, px)).all()
    assert (dilate(mask, px + 1) | ~dilate(mask, px)).all()


@given(masks, widths, widths)
def test_dilations_add_up(mask: torch.Tensor, a: int, b: int) -> None:
    assert dilate(dilate(mask, a), b).equal(dilate(mask, a + b))


def test_no_dilation_is_the_same_mask_and_the_argument_stays() -> None:
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2, 2] = True
    assert dilate(mask, 0) is mask
    dilate(mask, 1)
    assert mask.sum() == 1


def test_a_dilation_larger_than_the_picture() -> None:
    mask = torch.zeros(3, 7, dtype=torch.bool)
    assert not dilate(mask, 10**9).any()
    mask[0, 0] = True
    assert dilate(mask, 10**9).all()


# Feathering


@given(masks, widths)
def test_feather_is_zero_outside_and_a_weight_inside(mask: torch.Tensor, px: int) -> None:
    weights = feather(mask, px)
    assert (weights.dtype, weights.shape) == (torch.float32, mask.shape)
    assert (weights[~mask] == 0).all()
    assert ((weights[mask] > 0) & (weights[mask] <= 1)).all()


@given(masks, widths)
def test_feather_matches_brute_force(mask: torch.Tensor, px: int) -> None:
    outside = (~mask).nonzero().double()
    for y, x in mask.nonzero().tolist():
        distance = (outside - torch.tensor([y, x])).norm(dim=1).min().item() if len(outside) else np.inf
        assert feather(mask, px)[y, x].item() == pytest.approx(min(1, distance / max(px, 1)), rel=1e-6)


@given(masks)
def test_no_feather_is_the_mask(mask: torch.Tensor) -> None:
    assert feather(mask, 0).equal(mask.float())


def test_the_ramp_of_a_half_plane() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:, 2:] = True
    assert feather(mask, 4)[1].tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("full", [False, True])
def test_masks_of_one_value(full: bool) -> None:
    mask = torch.full((4, 5), full)
    assert feather(mask, 3).equal(mask.float())


def test_edit_ratio() -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    assert edit_ratio(mask) == 0
    mask[0] = True
    assert edit_ratio(mask) == 0.25
    assert isinstance(edit_ratio(mask), float)
