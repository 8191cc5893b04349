"""The geometry: which sites are active at every resolution, and where each tap of each kernel finds its row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse import SitePyramid
from sparsedit.sparse.cache import Memory
from sparsedit.sparse.leaves import gather_window
from sparsedit.sparse.sites import Sites, Window, nearest_parents, plan_neighbours, resize_mask

properties = settings(max_examples=60, deadline=None, derandomize=True)


def random_mask(height: int, width: int, seed: int, density: float) -> Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < density


@st.composite
def masks(draw: st.DrawFn, largest: int = 40) -> Tensor:
    side = st.integers(1, largest)
    return random_mask(draw(side), draw(side), draw(st.integers(0, 999)), draw(st.floats(0, 1)))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Any window that has at least one output: all kernels, strides, dilations, paddings, and up-sampled grids."""
    pair = st.tuples(st.integers(1, 5), st.integers(1, 5))
    source = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    grid = draw(st.sampled_from([source, (2 * source[0], 2 * source[1]), (2 * source[0] - 1, 2 * source[1] - 1)]))
    kernel, stride, dilation = draw(pair), draw(pair), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(*[st.integers(0, 5)] * 4))
    window = Window(source, grid, kernel, stride, dilation, padding)
    reach = [dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    room = [grid[axis] + padding[2 * axis] + padding[2 * axis + 1] for axis in (0, 1)]
    if reach[0] > room[0] or reach[1] > room[1]:
        return Window(source, grid)
    return window


def resolved(window: Window, out: Sites, source: Sites) -> Tensor:
    """What each tap reads, as [N, kh * kw] of source position + 1, or 0 for zero padding."""
    plan = plan_neighbours(out, source, window)
    rows = torch.cat([source.index + 1, plan.halo + 1, torch.zeros(1, dtype=torch.long)])
    return rows[plan.gather].view(out.count, window.kernel[0] * window.kernel[1])


def unfolded(image: Tensor, window: Window) -> Tensor:
    """torch's own answer: [kh * kw, outputs] of a map [H, W], up-sampled, padded and unfolded."""
    top, bottom, left, right = window.padding
    grid = F.interpolate(image[None, None], size=window.grid, mode="nearest")
    padded = F.pad(grid, (left, right, top, bottom))
    return F.unfold(padded, window.kernel, window.dilation, stride=window.stride)[0]


@properties
@given(window=windows(), seed=st.integers(0, 999), density=st.floats(0, 1))
def test_every_tap_resolves_to_the_pixel_that_torch_reads(window: Window, seed: int, density: float) -> None:
    source = Sites.from_mask(random_mask(*window.source, seed, density))
    out = Sites.from_mask(random_mask(*window.output, seed + 1, 0.5))
    numbers = torch.arange(1.0, 1 + window.source[0] * window.source[1]).view(window.source)
    expected = unfolded(numbers, window)[:, out.index].T.long()
    assert torch.equal(resolved(window, out, source), expected)


@properties
@given(window=windows(), seed=st.integers(0, 999), density=st.floats(0, 1))
def test_every_tap_resolves_to_the_pixel_that_a_plain_loop_finds(window: Window, seed: int, density: float) -> None:
    source = Sites.from_mask(random_mask(*window.source, seed, density))
    out = Sites.from_mask(random_mask(*window.output, seed + 1, 0.2))
    plan = plan_neighbours(out, source, window)
    halo = plan.halo.tolist()
    expected = []
    for site in out.index.tolist():
        y, x = divmod(site, out.size[1])
        for i in range(window.kernel[0]):
            for j in range(window.kernel[1]):
                row = y * window.stride[0] + i * window.dilation[0] - window.padding[0]
                column = x * window.stride[1] + j * window.dilation[1] - window.padding[2]
                if not (0 <= row < window.grid[0] and 0 <= column < window.grid[1]):
                    expected.append(source.count + len(halo))
                    continue
                pixel = (row * window.source[0] // window.grid[0]) * window.source[1]
                pixel += column * window.source[1] // window.grid[1]
                active = int(source.position[pixel])
                expected.append(active if active >= 0 else source.count + halo.index(pixel))
    assert plan.gather.tolist() == expected


@properties
@given(window=windows(), seed=st.integers(0, 999), density=st.floats(0, 1))
def test_the_halo_is_exactly_what_is_read_and_not_active(window: Window, seed: int, density: float) -> None:
    source = Sites.from_mask(random_mask(*window.source, seed, density))
    out = Sites.from_mask(random_mask(*window.output, seed + 1, 0.5))
    halo = plan_neighbours(out, source, window).halo.tolist()
    read = set((resolved(window, out, source) - 1).flatten().tolist()) - {-1}
    assert halo == sorted(read - set(source.index.tolist()))


@properties
@given(window=windows(), seed=st.integers(0, 999))
def test_the_output_size_is_that_of_conv2d(window: Window, seed: int) -> None:
    top, bottom, left, right = window.padding
    padded = F.pad(torch.zeros(1, 1, *window.grid), (left, right, top, bottom))
    conv = F.conv2d(padded, torch.zeros(1, 1, *window.kernel), stride=window.stride, dilation=window.dilation)
    assert tuple(conv.shape[2:]) == window.output


@properties
@given(mask=masks(), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_gathered_rows_times_the_kernel_are_the_convolution(mask: Tensor, kernel: int, stride: int, seed: int) -> None:
    """New rows at the active sites, remembered ones elsewhere: the convolution of the two put together."""
    generator = torch.Generator().manual_seed(seed)
    old, new = torch.randint(-9, 9, (2, 2, 3, *mask.shape), generator=generator).double()
    weight = torch.randint(-9, 9, (4, 3, kernel, kernel), generator=generator).double()
    size, pad = (mask.shape[0], mask.shape[1]), kernel // 2
    pyramid = SitePyramid.from_mask(mask)
    window = Window(size, size, (kernel, kernel), (stride, stride), (1, 1), (pad,) * 4)
    active = pyramid.level(size).index
    rows = new.flatten(2)[:, :, active].transpose(1, 2)
    seen = gather_window(rows, Memory((old.flatten(2).transpose(1, 2),), size), pyramid, window)
    mixed = old.flatten(2).index_copy(2, active, rows.transpose(1, 2)).view(old.shape)
    expected = F.conv2d(mixed, weight, stride=stride, padding=pad).flatten(2)
    outputs = pyramid.level(window.output).index
    assert torch.equal(seen @ weight.permute(0, 2, 3, 1).flatten(1).T, expected[:, :, outputs].transpose(1, 2))


def test_rows_that_do_not_fit_their_map_are_refused() -> None:
    pyramid = SitePyramid.from_mask(torch.ones(4, 4, dtype=torch.bool))
    window = Window((4, 4), (4, 4))
    with pytest.raises(EngineError, match="4x4 with 16 active sites arrives as 8 rows"):
        gather_window(torch.zeros(1, 8, 3), Memory((torch.zeros(1, 16, 3),), (4, 4)), pyramid, window)


@properties
@given(mask=masks())
def test_index_and_position_are_each_others_inverse(mask: Tensor) -> None:
    sites = Sites.from_mask(mask)
    assert sites.count == int(mask.sum())
    assert torch.equal(sites.index, sites.index.sort().values)
    assert sites.position[sites.index].tolist() == list(range(sites.count))
    assert torch.equal(sites.position >= 0, mask.flatten())


@properties
@given(mask=masks(60), times=st.integers(1, 4), up=st.booleans())
def test_a_coarser_site_is_active_exactly_when_a_pixel_below_it_is(mask: Tensor, times: int, up: bool) -> None:
    """Sizes halve up, as in UNets, or down, as in a VAE's encoder, whose last cell takes what is left over."""
    step = 2**times
    height, width = (-(-n // step) if up else n // step for n in mask.shape)
    if height == 0 or width == 0:
        return
    expected = torch.zeros(height, width, dtype=torch.bool)
    for y, x in mask.nonzero().tolist():
        expected[min(y // step, height - 1), min(x // step, width - 1)] = True
    level = resize_mask(mask, (height, width))
    assert bool((level | ~expected).all())
    if max(height, width) > 2:
        assert torch.equal(level, expected)


def test_where_halving_once_and_twice_give_the_same_size_either_answer_is_active() -> None:
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[0, 2] = True
    assert resize_mask(mask, (2, 2)).tolist() == [[True, True], [False, False]]


@properties
@given(mask=masks(), times=st.integers(1, 3))
def test_a_coarser_level_is_reached_in_one_step_or_in_many(mask: Tensor, times: int) -> None:
    chain = mask[None].float()
    for _ in range(times):
        chain = F.max_pool2d(chain, 2, ceil_mode=True)
    level = resize_mask(mask, (chain.shape[1], chain.shape[2]))
    assert bool((level | ~(chain[0] > 0)).all())
    if max(level.shape) > 2:
        assert torch.equal(level, chain[0] > 0)


@properties
@given(mask=masks(12), times=st.integers(1, 3), odd=st.booleans())
def test_a_finer_site_is_active_exactly_when_the_one_above_it_is(mask: Tensor, times: int, odd: bool) -> None:
    size = tuple(n * 2**times - (odd and n > 2) for n in mask.shape)
    expected = mask.repeat_interleave(2**times, 0).repeat_interleave(2**times, 1)[: size[0], : size[1]]
    assert torch.equal(resize_mask(mask, (size[0], size[1])), expected)


@properties
@given(mask=masks(), seed=st.integers(0, 99), dilation=st.integers(0, 2))
def test_more_pixels_never_make_fewer_sites(mask: Tensor, seed: int, dilation: int) -> None:
    larger = mask | random_mask(mask.shape[0], mask.shape[1], seed, 0.1)
    if not mask.any():
        return
    sizes = [(-(-mask.shape[0] // step), -(-mask.shape[1] // step)) for step in (1, 2, 4, 8)]
    less = SitePyramid.from_mask(mask, level_dilation=dilation)
    more = SitePyramid.from_mask(larger, level_dilation=dilation)
    for size in sizes:
        assert bool((more.level(size).position[less.level(size).index] >= 0).all())
        assert 0 < less.fraction(size) <= more.fraction(size) <= 1


@properties
@given(mask=masks(24), sites=st.integers(0, 4))
def test_dilation_grows_the_mask_by_a_square(mask: Tensor, sites: int) -> None:
    pyramid = SitePyramid.from_mask(mask, dilation=sites)
    expected = torch.zeros_like(mask)
    for y, x in mask.nonzero().tolist():
        expected[max(y - sites, 0) : y + sites + 1, max(x - sites, 0) : x + sites + 1] = True
    assert torch.equal(pyramid.mask, expected)


@properties
@given(mask=masks(), sites=st.integers(0, 3))
def test_level_dilation_grows_every_other_level_but_not_the_masks_own(mask: Tensor, sites: int) -> None:
    if not mask.any():
        return
    own = (mask.shape[0], mask.shape[1])
    half = (-(-own[0] // 2), -(-own[1] // 2))
    pyramid = SitePyramid.from_mask(mask, level_dilation=sites)
    grown = SitePyramid.from_mask(resize_mask(mask, half), dilation=sites).mask
    assert torch.equal(pyramid.level(own).index, mask.flatten().nonzero().flatten())
    if half != own:
        assert torch.equal(pyramid.level(half).index, grown.flatten().nonzero().flatten())


@pytest.mark.parametrize("size", [(37, 53), (5, 7), (1, 1), (64, 128)])
def test_nearest_up_sampling_copies_from_torchs_own_parents(size: tuple[int, int]) -> None:
    image = torch.arange(float(size[0] * size[1])).view(1, 1, *size)
    doubled = F.interpolate(image, scale_factor=2.0, mode="nearest")[0, 0].long()
    rows, columns = nearest_parents(size[0], 2 * size[0]), nearest_parents(size[1], 2 * size[1])
    assert torch.equal(doubled, rows[:, None] * size[1] + columns)


@properties
@given(source=st.integers(1, 200), grid=st.integers(1, 400))
def test_nearest_parents_are_those_of_interpolate_at_any_size(source: int, grid: int) -> None:
    line = torch.arange(float(source)).view(1, 1, 1, source)
    assert torch.equal(nearest_parents(source, grid), F.interpolate(line, size=(1, grid))[0, 0, 0].long())


@pytest.mark.parametrize("size", [(3, 3), (4, 8), (8, 16), (9, 8), (14, 14), (14, 16), (36, 36), (1, 8)])
def test_a_size_that_halving_does_not_reach_is_refused(size: tuple[int, int]) -> None:
    pyramid = SitePyramid.from_mask(torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(EngineError, match=f"mask of 8x8 sites has no level of {size[1]}x{size[0]}"):
        pyramid.level(size)


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(4, 4), torch.zeros(4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)],
    ids=["float", "1-d", "3-d"],
)
def test_what_is_no_mask_is_refused(mask: Tensor) -> None:
    with pytest.raises(EngineError, match=r"must be a bool tensor \[H, W\]"):
        SitePyramid.from_mask(mask)


def test_an_empty_mask_keeps_one_ghost_site_that_counts_for_nothing() -> None:
    pyramid = SitePyramid.from_mask(torch.zeros(8, 8, dtype=torch.bool), level_dilation=1)
    assert pyramid.empty
    assert pyramid.level((4, 4)).count == 1
    assert pyramid.fraction((4, 4)) == 0.0


def test_levels_and_plans_are_computed_once_for_each_device() -> None:
    pyramid = SitePyramid.from_mask(torch.eye(8, dtype=torch.bool))
    window = Window((8, 8), (8, 8), (3, 3), padding=(1, 1, 1, 1))
    assert pyramid.level((4, 4)) is pyramid.level((4, 4))
    assert pyramid.neighbours(window) is pyramid.neighbours(window)
    assert pyramid.to(torch.device("cpu")) is pyramid
    elsewhere = pyramid.to(torch.device("meta"))
    assert elsewhere is pyramid.to(torch.device("meta"))
    assert elsewhere.level((4, 4)).index.is_meta
    assert elsewhere.level((4, 4)).count == pyramid.level((4, 4)).count
