"""The tiny autoencoder's training: what it learns from, and that what it writes takes the autoencoder's place."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLImg2ImgPipeline
from PIL import Image

from sparsedit.models.loading import load_pipeline
from tests.picture_sets import small_sets
from training import checkpoint, latents, pictures, tiny
from training.export import export_model
from training.loop import Chance, Clock, Loop, Run
from training.models import load_autoencoder
from training.settings import DEMO, Schedule, TinySettings
from training.workers import Crew

SCHEDULE = Schedule(minutes=0.5, batch=2, rate=0.02, adam_rate=2e-3, warm_up=2, meet_every=4, validate_seconds=1e9)
SETTINGS = TinySettings(schedule=SCHEDULE, width=16, encoder_blocks=(0, 1, 1, 1), decoder_blocks=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a few pictures and their latents, which the training reads."""
    with small_sets(tiny, tmp_path_factory.mktemp("work"), 3, 2) as folder:
        yield folder


def new_task(settings: TinySettings = SETTINGS) -> tiny.TinyTask:
    torch.manual_seed(0)
    return tiny.TinyTask(settings, DEMO, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(work):
    """A task after a few steps, and its checkpoint."""
    task = new_task()
    looks = count()  # at the clock: each takes a second
    run = Run("tiny", SETTINGS, work=work, log=work)
    Loop(task, run, Crew(), Clock(lambda: float(next(looks)))).train()
    return task, run.checkpoint


def test_it_learns_both_ways(work, trained):
    task, path = trained
    before = new_task().validate()
    average = checkpoint.load(path)["average"]
    task.tiny.load_state_dict(average)
    after = task.validate()
    assert set(after) == {"decoded psnr", "decoded ssim", "round trip psnr", "round trip ssim"}
    assert all(after[name] > before[name] + 2 for name in after if "psnr" in name)


def test_the_teacher_is_left_as_it_is(trained):
    task, _ = trained
    before, after = new_task().teacher.state_dict(), task.teacher.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(name.startswith("teacher") for name, _ in task.named_parameters())


def test_the_teachers_share_chooses_between_its_output_and_the_picture(work):
    losses = {}
    for share in (0.0, 0.5, 1.0):
        task = new_task(replace(SETTINGS, taught=share, latent_noise=0.0))
        losses[share] = task.loss(0, Chance(0, 0, 0))[0].item()
    assert losses[0.0] != losses[1.0]
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2, rel=1e-3)


def test_what_is_taught_is_what_the_pipelines_autoencoder_shows(work):
    pipe = load_pipeline("demo", dtype="float32")
    task = new_task()
    scaled = torch.from_numpy(task.held_out.values).float()
    shown = pipe.vae.decode(scaled / pipe.vae.config.scaling_factor).sample
    assert (task._teach(scaled) - shown).abs().mean() < 0.02


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The trained one, exported."""
    folder = tmp_path_factory.mktemp("models") / "demo-tiny"
    export_model(tiny.new_tiny(SETTINGS), trained[1], folder)
    return folder


class TestExported:
    def test_it_holds_the_averaged_weights_in_half_precision(self, folder, trained):
        model = AutoencoderTiny.from_pretrained(folder)
        assert model.dtype == torch.float32
        found, average = model.state_dict(), checkpoint.load(trained[1])["average"]
        assert all(torch.equal(found[name], average[name].half().float()) for name in found)

    def test_it_takes_the_autoencoders_place_in_a_pipeline(self, folder):
        pipe = load_pipeline("demo", dtype="float32")
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        options = {"num_inference_steps": 2, "latents": noise}
        scaled = pipe("a red house", **options, output_type="latent").images
        pipe.vae = AutoencoderTiny.from_pretrained(folder)
        made = pipe("a red house", **options, output_type="pt").images
        with torch.no_grad():
            expected = pipe.vae.decode(scaled).sample  # the latents as they are: its scale is 1
        assert made.shape == (1, 3, 256, 256)
        assert torch.allclose(made, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)

    def test_it_encodes_for_an_edit(self, folder):
        pipe = StableDiffusionXLImg2ImgPipeline.from_pipe(load_pipeline("demo", dtype="float32"))
        pipe.vae = AutoencoderTiny.from_pretrained(folder)
        image = Image.fromarray(pictures.render_all(512, [5])[0])
        made = pipe("a lake", image=image, strength=0.5, num_inference_steps=2, output_type="np").images
        assert made.shape == (1, 256, 512, 3)
        assert np.isfinite(made).all()


def test_the_full_sized_one_is_small():
    model = tiny.new_tiny(TinySettings())
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) <= 1.2e6


def test_latents_stay_good_when_their_autoencoder_is_exported(tmp_path):
    load_autoencoder(DEMO).save_pretrained(tmp_path / "vae")  # in full precision, as it was trained
    assert latents.encoder_hash(tmp_path) == latents.encoder_hash(DEMO)
