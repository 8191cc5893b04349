"""Full-size SDXL on the published cases: what a thin call costs, and (slow) that it is the dense one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from benchmarks.unet_call import BATCH, HEIGHT, WIDTH, cases, random_conditions
from sparsedit.measure.twin import Twin
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_model, random_pipeline
from sparsedit.settings import POLICIES
from sparsedit.sparse import ActivationCache, SitePyramid, dilate, record, sparse
from sparsedit.stages import Stages

DATA = Path(os.environ.get("SPARSEDIT_SIGE_DATA", Path(__file__).parents[2] / "shared" / "cases" / "sige"))
LIMITS = {
    ("sdedit0", "tight"): 95e9,
    ("sdedit0", "published"): 190e9,
    ("inpaint", "tight"): 440e9,
    ("inpaint", "published"): 630e9,
}


@pytest.fixture(scope="module")
def stages() -> Stages:
    return Stages(random_pipeline(get_preset("sdxl"), torch.bfloat16, device="meta"))


@pytest.fixture(scope="module")
def twin(stages: Stages) -> Twin:
    return Twin(stages, HEIGHT, WIDTH, BATCH)


def test_the_dense_unet_costs_what_was_published(twin: Twin) -> None:
    assert twin.dense("unet").macs == pytest.approx(3014.9e9, rel=1e-4)


@pytest.mark.skipif(not DATA.is_dir(), reason="the published pictures are not here; SPARSEDIT_SIGE_DATA names them")
@pytest.mark.parametrize(("case", "policy"), LIMITS)
def test_a_thin_unet_call_stays_below_its_limit(case: str, policy: str, twin: Twin) -> None:
    rules = POLICIES[policy]
    sites = SitePyramid.from_mask(dilate(cases(DATA)[case], rules.grow), level_dilation=rules.level_dilation)
    assert twin.thin("unet", sites).macs <= LIMITS[case, policy]


@pytest.mark.slow
@torch.inference_mode()
def test_with_every_site_active_the_full_size_unet_is_the_dense_one(stages: Stages) -> None:
    """In float32; needs 12 GB of memory."""
    unet = random_model(type(stages.unet), dict(cast(Any, stages.unet).config), torch.float32)
    generator = torch.Generator().manual_seed(0)
    conditions = random_conditions(stages, torch.float32, generator)
    x = torch.randn(BATCH, 4, 16, 24, generator=generator)
    cache = ActivationCache()
    with record(unet, cache):
        dense = unet(x, 500, **conditions).sample
    with sparse(unet, cache, SitePyramid.from_mask(torch.ones(16, 24, dtype=torch.bool))):
        thin = unet(x, 500, **conditions).sample
    assert (thin - dense).norm() <= 1e-5 * dense.norm()
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[4:9, 7:15] = True
    with sparse(unet, cache, SitePyramid.from_mask(mask)):
        edited = unet(torch.where(mask, -x, x), 500, **conditions).sample
    assert torch.equal(edited[..., ~mask], dense[..., ~mask])
