"""The refiner's training: what it starts from, which levels it learns, and that stock pipelines take it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from torch import Tensor

from sparsedit.sparse import ActivationCache, record
from tests.pipelines import tiny_sdxl
from training import checkpoint, unet
from training.captions import tokenize
from training.diffusion import Diffusion
from training.latents import Latents
from training.loop import Chance, Run
from training.models import load_denoiser, load_tokenizers, new_scheduler
from training.refiner import RefinerDiffusion, RefinerTask, new_refiner, write
from training.settings import DEMO, RefinerSettings

CPU = torch.device("cpu")
SETTINGS = RefinerSettings(schedule=replace(RefinerSettings().schedule, batch=2))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    pipe = tiny_sdxl(new_scheduler(), wide=True)
    pipe.unet.register_to_config(sample_size=32)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def task(base, monkeypatch) -> RefinerTask:
    values = noise(3, 4, 32, 32).half().numpy()
    monkeypatch.setattr(unet, "read_latents", lambda pictures, folder: Latents(np.arange(3), values, 256))
    torch.manual_seed(0)
    return RefinerTask(SETTINGS, base, CPU)


class TestFirstWeights:
    @torch.no_grad()
    def test_it_says_what_the_base_says_of_square_pictures_without_its_first_encoder(self, base):
        models = load_denoiser(base)
        for module in models.unet.modules():
            for left_out in getattr(module, "transformer_blocks", [])[1:]:
                for last in (left_out.attn1.to_out[0], left_out.attn2.to_out[0], left_out.ff.net[2]):
                    last.weight.zero_()
                    last.bias.zero_()
        states, pooled = noise(2, 5, 48), noise(2, 48, seed=1)
        levels = torch.tensor([30, 190])
        sizes = torch.tensor([[256.0, 256, 0, 0, 256, 256]] * 2)
        context = torch.cat([torch.zeros(2, 5, 32), states], -1)
        expected = models.unet(
            noise(2, 4, 8, 8), levels, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        ).sample
        scored = torch.tensor([[256.0, 256, 0, 0, 6], [256, 256, 0, 0, 2.5]])
        found = new_refiner(models)(
            noise(2, 4, 8, 8), levels, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": scored}
        ).sample
        assert torch.allclose(found, expected, atol=1e-5)

    def test_the_demos_fits_into_20_megabytes(self):
        assert 2 * sum(value.numel() for value in new_refiner(load_denoiser(DEMO)).parameters()) <= 20e6


class TestTask:
    def test_it_learns_all_of_the_unet_at_the_last_levels_alone(self, task, monkeypatch):
        seen = []
        predict = task.diffusion.predict

        def watched(noisy, levels, conditions, unet=None):
            seen.append(levels)
            return predict(noisy, levels, conditions, unet)

        monkeypatch.setattr(task.diffusion, "predict", watched)
        loss, _ = task.loss(0, Chance(0))
        loss.backward()
        task.loss(1, Chance(1))
        assert int(torch.cat(seen).max()) < 200
        assert all(parameter.grad is not None for _, parameter in task.named_parameters())
        others = (*task.models.text_encoder.parameters(), *task.models.text_encoder_2.parameters())
        assert all(parameter.grad is None for parameter in others)

    @torch.no_grad()
    def test_validation_compares_it_with_the_base_at_its_levels(self, task, base):
        scores = task.validate()
        assert list(scores) == ["true", "objects", "none", "base true", "base objects", "base none"]
        expected = task.held_out_errors(Diffusion(load_denoiser(base), 1, CPU))
        assert scores["base true"] == pytest.approx(expected["true"], rel=0.01)
        assert scores["true"] != scores["base true"]


@pytest.fixture(scope="module")
def written(tmp_path_factory, base) -> Path:
    """The folder of a refiner whose weights are not its first ones."""
    folder = tmp_path_factory.mktemp("refiner")
    run = Run("refiner", SETTINGS, work=folder)
    weights = {name: value.detach() * 1.1 for name, value in new_refiner(load_denoiser(base)).named_parameters()}
    checkpoint.save(run.checkpoint, {"average": weights})
    write(run, base, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def pipe(written, base) -> StableDiffusionXLImg2ImgPipeline:
    """The stock refiner pipeline, sharing what is the base's, as a user loads it."""
    whole = StableDiffusionXLPipeline.from_pretrained(base)
    shared = {name: getattr(whole, name) for name in ("text_encoder_2", "tokenizer_2", "vae")}
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(written, **shared)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TestFolder:
    def test_it_leaves_out_what_is_the_bases(self, written):
        names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
        weights = "unet/diffusion_pytorch_model.safetensors"
        assert names == {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", weights}

    def test_it_is_a_refiners_with_the_averaged_weights(self, pipe, base):
        assert pipe.config.requires_aesthetics_score
        assert pipe.text_encoder is None
        assert pipe.tokenizer is None
        first = new_refiner(load_denoiser(base)).conv_in.weight
        assert torch.allclose(pipe.unet.conv_in.weight, (first * 1.1).half().float())

    @pytest.mark.parametrize("options", [{"strength": 0.2}, {"denoising_start": 0.8}])
    def test_the_stock_pipeline_tells_it_what_training_did(self, pipe, base, monkeypatch, options):
        calls = []
        forward = pipe.unet.forward

        def watched(noisy, level, **kwargs):
            calls.append((int(level), kwargs))
            return forward(noisy, level, **kwargs)

        monkeypatch.setattr(pipe.unet, "forward", watched)
        made = pipe("a lake", image=noise(1, 4, 8, 8), num_inference_steps=20, guidance_scale=3.0, **options)
        assert made.images[0].size == (64, 64)
        assert [level for level, _ in calls] == [199, 149, 99, 49]

        models = load_denoiser(base)
        diffusion = RefinerDiffusion(replace(models, unet=pipe.unet), SETTINGS, CPU)
        given = torch.tensor([0.0, 1.0])
        expected = diffusion.conditions(tokenize(["a lake"] * 2, load_tokenizers(base)), given)
        added = calls[0][1]["added_cond_kwargs"]
        assert added["time_ids"].tolist() == diffusion._time_ids(noise(2, 4, 8, 8), given).tolist()
        assert torch.allclose(calls[0][1]["encoder_hidden_states"], expected.states, atol=0.05)
        assert torch.allclose(added["text_embeds"], expected.pooled, atol=0.05)

    def test_the_engine_takes_it(self, pipe):
        added = {"text_embeds": noise(1, 48), "time_ids": torch.zeros(1, 5)}
        with torch.no_grad(), record(pipe.unet, ActivationCache()):
            pipe.unet(noise(1, 4, 8, 8), torch.tensor(199), noise(1, 5, 48), added_cond_kwargs=added)
