"""Padded sites: the same work as on the sites themselves, in tensors whose shapes and addresses stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedit.sparse import SitePyramid
from sparsedit.sparse.cache import Memory
from sparsedit.sparse.leaves import gather_window
from sparsedit.sparse.padding import PaddedPyramid, fill_up, places_for
from sparsedit.sparse.sites import Size, Window

CPU = torch.device("cpu")
properties = settings(max_examples=60, deadline=None, derandomize=True)


def pyramid_of(rows: slice, columns: slice, size: Size = (32, 32)) -> SitePyramid:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[rows, columns] = True
    return SitePyramid.from_mask(mask)


def windows(size: Size) -> list[Window]:
    """A convolution, one with a stride, and one behind nearest up-sampling."""
    height, width = size
    return [
        Window(size, size, (3, 3), padding=(1, 1, 1, 1)),
        Window(size, size, (3, 3), (2, 2), padding=(0, 1, 0, 1)),
        Window(size, (2 * height, 2 * width), (3, 3), padding=(1, 1, 1, 1)),
    ]


def addresses(padded: PaddedPyramid, size: Size) -> list[int]:
    plans = [padded.neighbours(window) for window in windows(size)]
    kept = [padded.level(size).index, *(index for plan in plans for index in (plan.gather, plan.halo))]
    return [tensor.data_ptr() for tensor in kept]


def assert_same_rows(padded: PaddedPyramid, sites: SitePyramid, size: Size) -> None:
    """Every window sees in its places what it sees of the sites, and in those left over what the last one sees."""
    remembered = torch.arange(1.0, size[0] * size[1] + 1).view(1, -1, 1)
    edited = -remembered
    for window in windows(size):
        expected = gather_window(edited[:, sites.level(size).index], Memory((remembered,), size), sites, window)
        found = gather_window(edited[:, padded.level(size).index], Memory((remembered,), size), padded, window)
        assert found.shape[1] == padded.level(window.output).count
        assert torch.equal(found, fill_up(expected[0], found.shape[1])[None])


@properties
@given(count=st.integers(0, 100_000))
def test_a_bucket_holds_its_sites_and_little_more(count: int) -> None:
    places = places_for(count)
    assert count <= places <= max(16, 1.25 * count)
    assert places_for(places) == places
    assert places % 8 == 0


@properties
@given(seed=st.integers(0, 999), density=st.floats(0.01, 1), exact=st.booleans())
def test_padded_plans_see_what_the_plans_see(seed: int, density: float, exact: bool) -> None:
    mask = torch.rand(13, 17, generator=torch.Generator().manual_seed(seed)) < density
    sites = SitePyramid.from_mask(mask)
    padded = PaddedPyramid(sites, CPU, exact)
    assert_same_rows(padded, sites, (13, 17))
    places = padded.level((13, 17)).count
    assert places == (sites.level((13, 17)).count if exact else places_for(sites.level((13, 17)).count))


def test_another_mask_is_written_into_the_same_places() -> None:
    first, second = pyramid_of(slice(3, 12), slice(5, 14)), pyramid_of(slice(20, 29), slice(22, 32))
    padded = PaddedPyramid(first, CPU)
    before = addresses(padded, (32, 32))
    assert padded.fits(second)
    padded.load(second)
    assert addresses(padded, (32, 32)) == before
    assert_same_rows(padded, second, (32, 32))
    assert torch.equal(padded.level((32, 32)).position, second.level((32, 32)).position)
    padded.load(first)
    assert_same_rows(padded, first, (32, 32))


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (pyramid_of(slice(3, 12), slice(5, 14)), True),
        (pyramid_of(slice(3, 13), slice(5, 14)), True),
        (pyramid_of(slice(3, 20), slice(5, 20)), False),
        (pyramid_of(slice(3, 5), slice(5, 7)), False),
        (pyramid_of(slice(0, 27, 3), slice(0, 27, 3)), False),
    ],
    ids=["the same", "a little larger", "too large", "so small that it would waste them", "of too long an outline"],
)
def test_which_masks_fit(other: SitePyramid, fits: bool) -> None:
    padded = PaddedPyramid(pyramid_of(slice(3, 12), slice(5, 14)), CPU)
    addresses(padded, (32, 32))
    assert padded.fits(other) == fits


def test_exact_places_take_as_many_sites_and_no_other_number() -> None:
    padded = PaddedPyramid(pyramid_of(slice(3, 12), slice(5, 14)), CPU, exact=True)
    padded.level((32, 32))
    assert padded.fits(pyramid_of(slice(13, 22), slice(1, 10)))
    assert not padded.fits(pyramid_of(slice(3, 12), slice(5, 13)))


@pytest.mark.parametrize("rows", [torch.tensor([4, 7]), torch.tensor([[1, 2], [3, 4]])])
def test_filling_up_repeats_the_last_row(rows: Tensor) -> None:
    filled = fill_up(rows, 4)
    assert torch.equal(filled[:2], rows)
    assert torch.equal(filled[2:], rows[-1:].expand_as(filled[2:]))


def test_nothing_is_filled_up_with_zeros() -> None:
    assert fill_up(torch.empty(0, dtype=torch.long), 3).tolist() == [0, 0, 0]
