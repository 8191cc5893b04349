"""Multiply-adds of dense and thin calls follow from a few counts, exactly, and are counted where they do not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedit.measure import twin as counting
from sparsedit.measure.affine import Affine
from sparsedit.measure.twin import Shapes, Twin
from sparsedit.sparse import SitePyramid
from sparsedit.stages import Stages
from tests.pipelines import controlled, tiny_refiner, tiny_sd15, tiny_sdxl, tiny_sdxs

HEIGHT, WIDTH = 64, 96
NUMBERS = st.integers(-(10**15), 10**15)


@given(
    st.tuples(NUMBERS, st.lists(NUMBERS, min_size=3, max_size=3)),
    st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=8),
)
def test_what_follows_from_examples_is_answered_exactly(law: tuple[int, list[int]], seen: list[list[int]]) -> None:
    constant, slopes = law

    def value(counts: list[int]) -> int:
        return constant + sum(slope * count for slope, count in zip(slopes, counts, strict=True))

    known, open_ones = Affine(), 0
    for counts in seen:
        answer = known.values(counts, 1)
        assert answer in (None, (value(counts),))
        open_ones += answer is None
        known.learn(counts, [value(counts)])
        assert known.values(counts, 1) == (value(counts),)
    assert 1 <= open_ones <= 4  # a constant and three slopes


def sites(seed: int, level_dilation: int) -> SitePyramid:
    """Up to three rectangles anywhere."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for _ in range(1 + seed % 3):
        top, left, height, width = (int(torch.randint(1, most, (), generator=draw)) for most in (60, 90, 30, 40))
        mask[top : top + height, left : left + width] = True
    return SitePyramid.from_mask(mask, level_dilation=level_dilation)


@pytest.mark.parametrize("build", [tiny_sdxl, lambda: tiny_sdxl(tiny_vae=True)], ids=["sdxl", "tiny VAE"])
def test_thin_costs_are_what_a_count_would_say(build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin(Stages(build()), HEIGHT, WIDTH, 2)
    counted, count = [], twin._count_thin

    def watched(stage: str, sites: SitePyramid, **how: bool) -> Any:
        counted.append(stage)
        return count(stage, sites, **how)

    monkeypatch.setattr(twin, "_count_thin", watched)
    several = [sites(seed, level_dilation=seed % 2) for seed in range(6)]
    for stage in ("unet", "encoder", "decoder"):
        for pyramid in several:
            assert twin.thin(stage, pyramid) == count(stage, pyramid, new_prompt=False)
        assert len(several) > counted.count(stage) > 1
    assert twin.thin("unet", several[0], new_prompt=True) == count("unet", several[0], new_prompt=True)
    nothing = SitePyramid.from_mask(torch.zeros(HEIGHT, WIDTH, dtype=torch.bool))
    assert twin.thin("unet", nothing) == count("unet", nothing, new_prompt=False)


BUILDERS: dict[str, Callable[[], Any]] = {
    "sdxl": lambda: controlled(tiny_sdxl()),
    "sd15": tiny_sd15,
    "tiny VAE": lambda: tiny_sdxl(tiny_vae=True),
    "sdxs": tiny_sdxs,
    "refiner": tiny_refiner,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_dense_costs_of_other_sizes_are_what_a_count_would_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(BUILDERS[name]())
    shapes, counted, count = Shapes(stages), [], counting._count
    monkeypatch.setattr(counting, "_count", lambda *call: counted.append(call[0]) or count(*call))
    draw = Random(name)
    sizes = [(8 * draw.randint(1, 9), 8 * draw.randint(1, 9)) for _ in range(10)]
    if stages.controlnet is None:
        sizes.append((60, 44))  # which a ControlNet cannot divide
    for height, width in sizes:
        twin = Twin(stages, height, width, 2, shapes)
        for stage in twin.calls:
            assert twin.dense(stage) == count(*twin.calls[stage])
    assert len(counted) < 0.9 * len(sizes) * sum(not stage.startswith("text") for stage in twin.calls)
