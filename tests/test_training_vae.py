"""The autoencoder's training: what weighs in it, and that one that goes on stays near the latents it had."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.picture_sets import small_sets
from training import pictures, vae
from training.details import detail_weights
from training.loop import Chance
from training.models import load_autoencoder, new_autoencoder
from training.settings import DEMO, DetailWeights, Schedule, VaeSettings

SCHEDULE = Schedule(minutes=0.5, batch=4, rate=0.02, adam_rate=2e-3)
SETTINGS = VaeSettings(schedule=SCHEDULE, crop=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _pictures(tmp_path_factory):
    with small_sets(vae, tmp_path_factory.mktemp("work"), 24, 2, encoded=False):
        yield


def task(old: Any = None, **settings: Any) -> vae.VaeTask:
    model = new_autoencoder() if old is None else load_autoencoder(DEMO)
    return vae.VaeTask(replace(SETTINGS, **settings), model, CPU, old)


def test_crops_come_with_the_weights_of_their_own_pixels():
    """Each crop's weights are cut, and mirrored, as its picture was: found again in the whole."""
    nights = task(nights=1.0)
    images, weights = nights._crops(np.random.default_rng(0))
    assert images.shape == (4, 3, 64, 64)
    assert weights.shape == (4, 1, 64, 64)
    assert weights.max() > 1
    known = {
        crop.tobytes(): more
        for scene, picture in zip(nights.scenes, np.concatenate(nights.pictures), strict=True)
        for crop, more in _all_crops(picture, detail_weights(scene, picture, SETTINGS.details))
    }
    for picture, found in zip(pictures.to_pictures(images), weights[:, 0].numpy(), strict=True):
        assert np.array_equal(known[picture.tobytes()], found)


def _all_crops(picture: Any, weights: Any) -> Any:
    for top in range(0, 193, 8):
        for left in range(0, 193, 8):
            for step in (1, -1):
                square = slice(top, top + 64), slice(left, left + 64)
                yield picture[square][:, ::step], weights[square][:, ::step]


def test_details_weigh_in_the_loss():
    blank = [task(nights=1.0, details=DetailWeights(stars=stars)) for stars in (0.0, 30.0, 60.0)]
    for other in blank[1:]:
        other.vae.load_state_dict(blank[0].vae.state_dict())
        other.colours.load_state_dict(blank[0].colours.state_dict())
    with torch.no_grad():
        none, some, more = (float(each.loss(0, Chance(0))[0]) for each in blank)
    assert none < some
    assert more - some == pytest.approx(some - none, rel=0.05)


def test_an_anchor_holds_latents_and_not_those_that_have_not_moved():
    old = load_autoencoder(DEMO).eval().requires_grad_(False)
    held, free = (task(old, anchor=weight) for weight in (5.0, 0.0))
    held.colours.load_state_dict(free.colours.state_dict())
    with torch.no_grad():
        assert float(held.loss(0, Chance(0))[0]) == pytest.approx(float(free.loss(0, Chance(0))[0]), abs=1e-3)
        for each in (held, free):
            each.vae.quant_conv.bias[:4] += 2.0
        apart = float(held.loss(0, Chance(0))[0]) - float(free.loss(0, Chance(0))[0])
    assert apart == pytest.approx(5 * (2 * vae.SCALING_FACTOR) ** 2, rel=0.1)
