"""The Canny ControlNet's training: what it starts from, what it leaves alone, and that stock pipelines take it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from sparsedit.canny import canny
from sparsedit.models.loading import load_pipeline
from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import sample_scene
from training import checkpoint, controlnet, edges, latents, settings
from training.agreement import f1
from training.controlnet import ControlNetTask, new_controlnet
from training.export import export_model
from training.loop import Chance
from training.models import load_denoiser
from training.muon import Muon
from training.parts import make_parts
from training.pictures import scene_seeds
from training.settings import DEMO, ControlNetSettings, PictureSet

SETTINGS = ControlNetSettings(schedule=replace(ControlNetSettings().schedule, batch=2))


class TestEdges:
    def test_they_survive_the_way_to_disk_and_to_a_control_image(self):
        packed = edges.scene_edges(512, [4, 5])
        assert (packed.shape, packed.dtype) == ((2, 256, 64), np.uint8)
        images = edges.control_images(packed)
        expected = np.array(canny(Image.fromarray(render(sample_scene(5, 512)))))
        assert torch.equal(images[1], torch.from_numpy(expected).permute(2, 0, 1) / 255)

    def test_their_scenes_are_the_first_of_those_whose_latents_are_there(self):
        few = replace(settings.EDGED, count=50)
        assert scene_seeds(few) == scene_seeds(replace(settings.SQUARE, count=80))[:50]
        assert settings.EDGED.count <= settings.SQUARE.count


class TestAgreement:
    line = np.zeros((20, 20), bool)
    line[:, 8] = True

    def test_edges_within_the_tolerance_are_the_same(self):
        assert f1(self.line, self.line, 0) == 1
        assert f1(np.roll(self.line, 2, 1), self.line, 2) == 1
        assert f1(np.roll(self.line, 3, 1), self.line, 2) == 0

    def test_edges_too_many_and_too_few_both_cost(self):
        double = self.line | np.roll(self.line, 6, 1)
        assert f1(double, self.line, 1) == f1(self.line, double, 1) == pytest.approx(2 / 3)

    def test_no_edges_agree_with_none_alone(self):
        nothing = np.zeros_like(self.line)
        assert f1(nothing, nothing, 2) == 1
        assert f1(nothing, self.line, 2) == f1(self.line, nothing, 2) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the latents and edges of a few scenes, which the training reads."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "WORK", folder)
        patch.setattr(edges, "WORK", folder)
        patch.setattr(controlnet, "SQUARE", PictureSet("square", 3, 100_000))
        patch.setattr(controlnet, "EDGED", PictureSet("edged", 2, 100_000))
        patch.setattr(controlnet, "HELD_OUT", PictureSet("others", 2, 6_000_000))
        for some in (controlnet.SQUARE, controlnet.HELD_OUT):
            latents.make_latents(some, DEMO, 1)
        for some in (controlnet.EDGED, controlnet.HELD_OUT):
            make_parts(edges.folder_of(some), scene_seeds(some), {}, lambda seeds: edges.scene_edges(256, seeds), 1)
        yield folder


def new_task() -> ControlNetTask:
    torch.manual_seed(0)
    return ControlNetTask(SETTINGS, DEMO, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(data) -> ControlNetTask:
    """A task after three steps; a step without a gradient for every parameter fails."""
    task = new_task()
    optimizer = Muon(task.named_parameters())
    for step in range(3):
        task.loss(step, Chance(0, 0, step))[0].backward()
        optimizer.step(0.05, 0.005)
    return task


def test_it_starts_from_the_unets_residual_blocks_and_has_no_transformers(data):
    unet = load_denoiser(DEMO).unet
    found, source = new_controlnet(unet, SETTINGS).state_dict(), unet.state_dict()
    own = {name for name in found if name not in source}
    assert own == {name for name in found if name.startswith("controlnet_")}
    assert all(torch.equal(found[name], source[name]) for name in found if name not in own)
    assert not any("attentions" in name for name in found)


@torch.no_grad()
def test_edges_arrive_at_first_about_as_strong_as_noise(data):
    torch.manual_seed(0)
    model = new_controlnet(load_denoiser(DEMO).unet, ControlNetSettings())
    shown = model.controlnet_cond_embedding(edges.control_images(edges.read_edges(controlnet.EDGED)))
    noise = model.conv_in(torch.randn(2, 4, 32, 32))
    assert 1 / 3 < shown.std(dim=(0, 2, 3)).mean() / noise.std(dim=(0, 2, 3)).mean() < 3


@torch.no_grad()
def test_at_first_it_adds_nothing(data):
    scores = new_task().validate()
    assert list(scores) == ["edges and caption", "edges", "caption", "nothing"]
    assert scores["edges and caption"] == scores["caption"]
    assert scores["edges"] == scores["nothing"]
    assert scores["caption"] != scores["nothing"]


def test_the_unet_and_the_text_encoders_are_left_as_they_are(trained):
    fresh = load_denoiser(DEMO).parts()
    for part, model in trained.models.parts().items():
        before, after = fresh[part].state_dict(), model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before), part


@torch.no_grad()
def test_edges_then_matter_and_errors_without_them_do_not_change(trained):
    before, after = new_task().validate(), trained.validate()
    assert after["edges"] != before["edges"]
    assert {name: after[name] for name in ("caption", "nothing")} == {
        name: before[name] for name in ("caption", "nothing")
    }


@pytest.fixture(scope="module")
def control(trained, tmp_path_factory) -> ControlNetModel:
    """The trained one, exported and loaded again."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint.save(folder / "run.pt", {"average": dict(trained.named_parameters())})
    export_model(new_controlnet(load_denoiser(DEMO).unet, SETTINGS), folder / "run.pt", folder / "demo-canny")
    assert sum(path.stat().st_size for path in (folder / "demo-canny").iterdir()) <= 7e6
    return ControlNetModel.from_pretrained(folder / "demo-canny")


class TestExported:
    def test_it_controls_a_pipeline_and_at_scale_0_does_not(self, control):
        pipe = load_pipeline("demo", dtype="float32")
        controlled = StableDiffusionXLControlNetPipeline.from_pipe(pipe, controlnet=control)
        controlled.set_progress_bar_config(disable=True)
        options = {
            "prompt": "a red house",
            "num_inference_steps": 2,
            "latents": torch.randn(1, 4, 32, 64, generator=torch.Generator().manual_seed(0)),
            "height": 256,
            "width": 512,
            "output_type": "latent",
        }
        plain = pipe(**options).images
        image = canny(Image.fromarray(render(sample_scene(5, 512))))
        found = [controlled(**options, image=image, controlnet_conditioning_scale=scale).images for scale in (0.0, 1.0)]
        assert torch.allclose(found[0], plain, atol=1e-5)
        assert (found[1] - plain).abs().max() > 0.01

    def test_it_controls_an_edit(self, control):
        pipe = load_pipeline("demo", dtype="float32")
        controlled = StableDiffusionXLControlNetImg2ImgPipeline.from_pipe(pipe, controlnet=control)
        controlled.set_progress_bar_config(disable=True)
        picture = Image.fromarray(render(sample_scene(5)))
        made = controlled(
            "a lake",
            image=picture,
            control_image=canny(picture),
            strength=0.5,
            num_inference_steps=2,
            output_type="np",
        ).images
        assert made.shape == (1, 256, 256, 3)
        assert np.isfinite(made).all()
