"""A thin decode needs a fraction of a dense one's memory, at full size, counted on the meta device."""

from __future__ import annotations

import pytest
import torch

from sparsedit.measure.estimate import in_dtype, peak_of_call
from sparsedit.measure.twin import Twin
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_pipeline
from sparsedit.plan import stage_sites
from sparsedit.settings import POLICIES
from sparsedit.sparse import ActivationCache, dilate, record, sparse
from sparsedit.stages import Stages

HEIGHT, WIDTH = 512, 1024


@pytest.mark.parametrize(("stage", "part"), [("encoder", 8), ("decoder", 7)])
def test_peak_of_a_thin_call_of_the_vae_of_sdxl(stage: str, part: int) -> None:
    """An edit of 1.7 % of the pixels, as SDEdit 0 of the published cases, once the first call has laid out plans and
    kernels' matrices. The recording itself is not counted."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[200:295, 400:495] = True
    policy = POLICIES["tight"]
    twin = Twin(Stages(random_pipeline(get_preset("sdxl"), torch.bfloat16, device="meta")), HEIGHT, WIDTH, 1)
    model, args, kwargs = in_dtype(twin.calls[stage], torch.bfloat16)
    sites = stage_sites(dilate(mask, policy.grow), policy)[stage].to(torch.device("meta"))
    cache = ActivationCache()
    with torch.no_grad(), record(model, cache):
        model(*args, **kwargs)
    cache.steps *= 2
    with torch.no_grad(), sparse(model, cache, sites):
        model(*args, **kwargs)
        thin = peak_of_call(model, args, kwargs)
    assert 0 < part * thin < peak_of_call(model, args, kwargs)
