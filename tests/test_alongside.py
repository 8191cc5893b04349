"""An original and its variants in one batch: the same answers as recording first and editing later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse import SitePyramid, alongside
from sparsedit.sparse.rows import map_tensors
from tests.engine import edited, model_of, outputs, recorded, relative_error, same_bits, sites_of, size_of
from tests.families import FAMILIES, TEXT, Inputs, noise

KINDS = ["scattered", "corner", "block"]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def pictures_of(name: str, halves: int, which: str = "even") -> list[Inputs]:
    """An original and three variants, each with the halves of classifier-free guidance as its batch."""
    pictures = [FAMILIES[name].inputs(halves, size_of(name, which), seed) for seed in (5, 15, 25, 35)]
    if "encoder_hidden_states" in pictures[0]:
        pictures[2]["encoder_hidden_states"] = noise(halves, 7, TEXT, seed=7)
    return pictures


def interleaved(pictures: list[Any]) -> Any:
    """The batch as pipelines lay it out: [original, variants...], again for each half."""
    first = pictures[0]
    if isinstance(first, dict):
        return {key: interleaved([picture[key] for picture in pictures]) for key in first}
    if isinstance(first, tuple):
        return tuple(interleaved(list(column)) for column in zip(*pictures, strict=True))
    if isinstance(first, Tensor) and first.ndim:
        return torch.stack(pictures, 1).flatten(0, 1)
    return first


def row_of(result: Any, row: int) -> Any:
    return map_tensors(result, lambda tensor: tensor[row::4])


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_is_what_recording_and_editing_apart_give(name: str, halves: int) -> None:
    model, pictures = model_of(name), pictures_of(name, halves)
    sites = [sites_of(kind, size_of(name, "even")) for kind in KINDS]
    batch = interleaved(pictures)
    with alongside(model, sites):
        together = model(**batch)
        again = model(**batch)
    assert same_bits(again, together)
    memory, dense = recorded(model, pictures[0])
    assert relative_error(row_of(together, 0), dense) <= 1e-5
    for row, (picture, pyramid) in enumerate(zip(pictures[1:], sites, strict=True), 1):
        alone = edited(model, memory, pyramid, picture)
        assert relative_error(row_of(together, row), alone) <= 1e-5
        for new, old in zip(outputs(row_of(together, row)), outputs(row_of(together, 0)), strict=True):
            outside = pyramid.level((new.shape[2], new.shape[3])).position < 0
            assert torch.equal(new.flatten(2)[:, :, outside], old.flatten(2)[:, :, outside])


@pytest.mark.parametrize("name", ["sdxl", "kl-decoder"])
def test_the_order_of_the_variants_does_not_matter(name: str) -> None:
    model, pictures = model_of(name), pictures_of(name, 2, "odd")
    sites = [sites_of(kind, size_of(name, "odd")) for kind in KINDS]
    with alongside(model, sites):
        forward = model(**interleaved(pictures))
    with alongside(model, sites[::-1]):
        backward = model(**interleaved([pictures[0], *pictures[:0:-1]]))
    for row in (1, 2, 3):
        assert same_bits(row_of(forward, row), row_of(backward, 4 - row))


def test_timesteps_of_the_batch_go_to_their_pictures() -> None:
    model, pictures = model_of("sdxl"), pictures_of("sdxl", 2)
    sites = [sites_of(kind, size_of("sdxl", "even")) for kind in KINDS]
    batch = interleaved(pictures)
    with alongside(model, sites):
        scalar = model(**batch)
        vector = model(**batch | {"timestep": torch.full((8,), 801)})
    assert same_bits(scalar, vector)


def test_several_steps_are_each_taken_from_their_own_original() -> None:
    model, sites = model_of("sdxl"), [sites_of(kind, size_of("sdxl", "even")) for kind in KINDS]
    steps = [interleaved(pictures_of("sdxl", 2)) | {"timestep": timestep} for timestep in (801, 401)]
    with alongside(model, sites) as memory:
        together = [model(**batch) for batch in steps]
        assert len(memory) == 0
    for batch, result in zip(steps, together, strict=True):
        with alongside(model, sites):
            assert same_bits(model(**batch), result)
    assert memory.peak_bytes > 0


def test_a_batch_that_does_not_divide_is_refused() -> None:
    inputs = FAMILIES["custom"].inputs(5, (16, 24), 5)
    with (
        alongside(model_of("custom"), [sites_of("block", (16, 24))]),
        pytest.raises(EngineError, match="a batch of 5 cannot hold 2 pictures"),
    ):
        model_of("custom")(**inputs)


def worked(pictures: list[Inputs], sites: list[SitePyramid], **options: Any) -> list[list[int]]:
    """The rows whose work an observer was entered around, in turn."""
    seen: list[list[int]] = []

    @contextmanager
    def observe(rows: Sequence[int]) -> Iterator[None]:
        seen.append([])
        yield
        seen[-1] += sorted(rows)

    with alongside(model_of("sdxl"), sites, observe, **options):
        model_of("sdxl")(**interleaved(pictures))
    return seen


def test_variants_that_share_all_but_their_pixels_run_together() -> None:
    pictures, sites = pictures_of("sdxl", 2), [sites_of(kind, size_of("sdxl", "even")) for kind in KINDS]
    assert worked(pictures, sites) == [[0], [1, 3], [2]]
    nothing = SitePyramid.from_mask(torch.zeros(size_of("sdxl", "even"), dtype=torch.bool))
    assert worked(pictures, [sites[0], sites[1], nothing]) == [[0], [1], [2], [3]]
    assert worked(pictures, sites, moments=True) == [[0], [1], [2], [3]]  # norms count each variant's sites apart
