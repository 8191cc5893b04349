"""The decoder's finetune: what it is shown, that stars weigh, and that what encodes is left alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from tests.picture_sets import small_sets
from training import checkpoint, decoder, pictures
from training.details import detail_weights
from training.loop import Chance, Clock, Loop, Run
from training.models import load_autoencoder
from training.settings import DEMO, DecoderSettings, DetailWeights, Schedule
from training.workers import Crew

SCHEDULE = Schedule(minutes=0.1, batch=1, rate=0.004, adam_rate=5e-4, warm_up=2, meet_every=2, validate_seconds=1e9)
SETTINGS = DecoderSettings(schedule=SCHEDULE, skies=2, head_start=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a few pictures, some of them clear nights, and their latents."""
    with small_sets(decoder, tmp_path_factory.mktemp("work"), 12, 1) as folder:
        yield folder


def new_task(**settings: object) -> decoder.DecoderTask:
    torch.manual_seed(0)
    return decoder.DecoderTask(replace(SETTINGS, **settings), DEMO, torch.device("cpu"))


def test_skies_are_the_upper_part_of_clear_nights_with_what_their_pixels_weigh(work):
    task = new_task()
    assert 0 < len(task.nights) < 12
    night = task.nights[:1]
    scene, picture = task.scenes[night[0]], np.concatenate(task.pictures)[night[0]]
    assert scene.time == "night"
    assert not scene.clouds
    sky = task._part(night, 96, Chance(0))
    assert sky.made.shape == sky.real.shape == (1, 3, 96, 256)
    assert np.array_equal(pictures.to_pictures(sky.real)[0], picture[:96])
    assert np.array_equal(sky.weights[0, 0].numpy(), detail_weights(scene, picture, SETTINGS.details)[:96])
    assert sky.weights.max() > 3
    with torch.no_grad():
        whole = task._part(night, None, Chance(0))
    assert whole.made.shape == (1, 3, 256, 256)
    assert (whole.made[:, :, :64] - sky.made[:, :, :64]).abs().mean() < 0.02  # the same sky, seen without the ground


def test_stars_weigh_in_the_loss(work):
    none, some, more = (
        float(new_task(details=DetailWeights(stars=stars)).loss(0, Chance(0))[0].detach())
        for stars in (0.0, 30.0, 60.0)
    )
    assert none < some
    assert more - some == pytest.approx(some - none, rel=0.05)


def test_it_trains_the_decoder_and_leaves_what_encodes_alone(work):
    task, looks = new_task(), count()  # each look at the clock takes a second
    run = Run("decoder", SETTINGS, settled=True, work=work, log=work)
    Loop(task, run, Crew(), Clock(lambda: float(next(looks)))).train()
    trained = checkpoint.load(run.checkpoint)["average"]
    before = load_autoencoder(DEMO).state_dict()
    assert not any(name.startswith(("encoder.", "quant_conv.")) for name in trained)
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())
    for name, value in task.vae.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            assert torch.equal(value, before[name])
