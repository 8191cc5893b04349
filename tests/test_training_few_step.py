"""The few-step version's training: what it learns is what stock pipelines do with the LoRA it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor

from sparsedit.errors import InputError, SettingsError
from sparsedit.sparse import ActivationCache, record
from tests.pipelines import tiny_sdxl
from training import settings, trajectories
from training.captions import tokenize
from training.diffusion import Conditions, Diffusion
from training.few_step import FewStepTask, write
from training.log import read_log
from training.loop import Chance, Clock, Loop, Run
from training.models import load_denoiser, load_tokenizers, new_scheduler
from training.settings import DistillationSettings, PathSettings, PictureSet, Schedule
from training.trajectories import Paths, load_teacher, make_paths, path_levels, read_paths, sample_paths
from training.workers import Crew

CPU = torch.device("cpu")
PROMPTS = ["a red house in a meadow by day", "a lake under snowy mountains at night"] * 2
SCHEDULE = Schedule(minutes=0.25, batch=5, rate=0.02, adam_rate=2e-3, warm_up=2, average_decay=0.8, meet_every=5)
SETTINGS = DistillationSettings(schedule=SCHEDULE, paths=PathSettings(steps=4), rank=8)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_sdxl(new_scheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def paths(base: Path) -> Paths:
    tokens = tokenize(PROMPTS, load_tokenizers(base))
    values = sample_paths(load_teacher(base, CPU), noise(len(PROMPTS)), tokens, SETTINGS.paths)
    return Paths(values.half().numpy(), tokens)


@pytest.fixture
def task(base: Path, paths: Paths) -> FewStepTask:
    torch.manual_seed(0)
    return FewStepTask(SETTINGS, base, paths, paths, CPU)


class PerfectDenoiser(Diffusion):
    """Predicts v as is best for pixels of one mean and deviation, once it is guided by 3."""

    mean, deviation = 0.5, 0.3

    def predict(self, noisy, levels, conditions, unet=None):
        signal, share = self.shares(levels)
        spread = (signal * self.deviation) ** 2 + share**2
        clean = self.mean + signal * self.deviation**2 / spread * (noisy - signal * self.mean)
        given = conditions.given[:, None, None, None]
        return velocity(noisy, clean, signal, share) + 0.2 * given + 0.3 * (1 - given)


def velocity(noisy: Tensor, clean: Tensor, signal: Tensor, share: Tensor) -> Tensor:
    """v = signal * noise - noise share * clean, with noise = (noisy - signal * clean) / noise share."""
    return (signal * noisy - clean) / share


class TestPaths:
    def test_they_follow_the_exact_ones_with_guidance(self, base):
        teacher = PerfectDenoiser(load_denoiser(base), 1, CPU)
        tokens = tokenize(PROMPTS[:2], load_tokenizers(base))
        found = sample_paths(teacher, noise(2), tokens, PathSettings(steps=1000, guidance=3.0))
        assert found.shape == (2, 1001, 4, 8, 8)
        for place in (0, 300, 700):
            signal, share = teacher.signal[999 - place], teacher.noise[999 - place]
            exact = signal * 0.5 + ((signal * 0.3) ** 2 + share**2).sqrt() * noise(2)
            assert torch.allclose(found[:, place], exact, atol=0.03)
        assert torch.allclose(found[:, -1], 0.5 + 0.3 * noise(2), atol=0.03)

    def test_they_visit_the_levels_of_1_2_and_4_steps(self):
        levels = path_levels(DistillationSettings().paths.steps)
        for count in (1, 2, 4):
            assert torch.equal(path_levels(count), levels[:: len(levels) // count])

    def test_one_depends_on_its_seed_alone_and_other_settings_lie_elsewhere(self, base, tmp_path, monkeypatch):
        monkeypatch.setattr(trajectories, "WORK", tmp_path)
        monkeypatch.setattr(trajectories, "_SIDE", 8)
        both, later = PictureSet("both", 2, 40), PictureSet("later", 1, 41)
        for part in (both, later):
            make_paths(part, base, PathSettings(steps=1), CPU, workers=1)
        found, alone = (read_paths(part, base, PathSettings(steps=1)) for part in (both, later))
        assert found.values.shape == (2, 2, 4, 8, 8)
        assert abs(found.values[1] - alone.values[0]).max() < 0.05  # bf16 rounds a batch of another size otherwise
        assert torch.equal(found.tokens.first[1], alone.tokens.first[0])
        with pytest.raises(InputError, match="has not been made yet"):
            read_paths(both, base, PathSettings(steps=2))

    def test_no_seed_is_another_sets(self):
        others = [settings.SQUARE, settings.WIDE, settings.PICTURES, settings.PROBE]
        first, last = settings.PATHS.first_seed, settings.PATHS.first_seed + 10 * settings.PATHS.count
        assert all(part.first_seed + 10 * part.count <= first or part.first_seed >= last for part in others)
        held_out = settings.PATHS_HELD_OUT
        assert settings.PROBE_HELD_OUT.first_seed + settings.PROBE_HELD_OUT.count <= held_out.first_seed
        assert held_out.first_seed + held_out.count <= settings.FIRST_PROMPT_SEED


class Student:
    """Predicts v such that every path ends in the same value."""

    def __init__(self, diffusion: Diffusion, end: float) -> None:
        self.diffusion, self.end = diffusion, torch.tensor(end)

    def __call__(self, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        return velocity(noisy, self.end, *self.diffusion.shares(levels))


class TestTask:
    def test_who_says_where_paths_end_has_no_error_in_any_number_of_steps(self, task, monkeypatch):
        signal, share = (part.unsqueeze(0) for part in task.diffusion.shares(task.levels))
        straight = signal * 0.5 + share * noise(4)[:, None]
        values = torch.cat([straight, torch.full((4, 1, 4, 8, 8), 0.5)], 1)
        task.paths = task.held_out = Paths(values.half().numpy(), task.paths.tokens)
        monkeypatch.setattr(task.diffusion, "predict", Student(task.diffusion, 0.5))
        assert float(task.loss(0, Chance(0))[0]) < 1e-4
        errors = task.validate()
        assert all(errors[name] < 1e-5 for name in ("1 step", "2 steps", "4 steps"))
        monkeypatch.setattr(task.diffusion, "predict", Student(task.diffusion, 0.7))
        assert float(task.loss(0, Chance(0))[0]) == pytest.approx((0.2**2 + 0.1**2) ** 0.5 - 0.1, abs=1e-3)

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_it_goes_on_as_the_stock_sampler_does(self, task, count):
        scheduler = new_scheduler()
        scheduler.set_timesteps(count)
        stock, ours = noise(1) * scheduler.init_noise_sigma, noise(1)
        for step, level in enumerate(scheduler.timesteps):
            place = torch.tensor([step * 4 // count])
            assert torch.allclose(scheduler.scale_model_input(stock, level), ours, atol=2e-3)
            said = noise(1, seed=step + 1)
            predicted = velocity(ours, said, *task.diffusion.shares(task.levels[place]))
            stock = scheduler.step(predicted, level, stock).prev_sample
            if step < count - 1:
                ours = task.go_on(ours, said, place, place + 4 // count)
        assert torch.allclose(stock, said, atol=2e-3)

    def test_the_lora_alone_is_learnt_and_changes_nothing_at_first(self, task, base):
        assert all(".lora_" in name for name, _ in task.named_parameters())
        conditions = task.diffusion.conditions(task.paths.tokens, torch.ones(4))
        with torch.no_grad():
            predicted = [
                diffusion.predict(noise(4), task.levels, conditions)
                for diffusion in (task.diffusion, load_teacher(base, CPU))
            ]
        assert torch.equal(*predicted)
        task.loss(0, Chance(0))[0].backward()
        learning = {id(parameter) for _, parameter in task.named_parameters() if parameter.grad is not None}
        models = task.diffusion.models.parts().values()
        assert learning == {id(value) for model in models for value in model.parameters() if value.requires_grad}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, paths) -> tuple[Path, FewStepTask, Run]:
    """The folder with the LoRA of a short run, its task with the same weights, and the run."""
    folder = tmp_path_factory.mktemp("few_step")
    run = Run("few_step", replace(SETTINGS, teacher="one"), work=folder, log=folder)
    torch.manual_seed(0)
    task = FewStepTask(SETTINGS, base, paths, paths, CPU)
    calls = iter(range(1_000_000))
    loop = Loop(task, run, Crew(), Clock(lambda: 0.4 * next(calls)))
    loop.train()
    write(run, base, folder / "lora")
    with loop.average.applied():
        yield folder / "lora", task, run


class TestTraining:
    def test_it_learns(self, trained):
        *_, run = trained
        first, *_, last = [row["validation"] for row in read_log(run.log / "few_step.jsonl") if "validation" in row]
        assert last["1 step"] < 0.8 * first["1 step"]
        assert last["teacher 4 steps"] < 1e-3 < last["teacher 2 steps"]  # its paths have 4 here

    def test_it_does_not_go_on_with_another_teacher(self, trained):
        _, task, run = trained
        other = replace(run, settings=replace(run.settings, teacher="another"))
        with pytest.raises(SettingsError, match="begun with another teacher"):
            Loop(task, other, Crew(), Clock()).train()


@pytest.fixture(scope="module")
def pipe(trained, base) -> StableDiffusionXLPipeline:
    """The stock pipeline with the LoRA merged into its weights, as a user loads it."""
    folder, _, _ = trained
    pipe = StableDiffusionXLPipeline.from_pretrained(base)
    pipe.load_lora_weights(folder)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe


class TestLora:
    def test_the_folder_holds_weights_and_sampler(self, trained):
        folder, _, _ = trained
        assert sorted(path.name for path in folder.iterdir()) == ["pytorch_lora_weights.safetensors", "scheduler"]
        config = EulerDiscreteScheduler.from_pretrained(folder / "scheduler").config
        assert (config.timestep_spacing, config.prediction_type) == ("trailing", "v_prediction")

    def test_every_pair_of_it_is_merged_and_nothing_else_changes(self, trained, base, pipe):
        folder, task, _ = trained
        lora = load_file(folder / "pytorch_lora_weights.safetensors")
        assert len(lora) == len(task.named_parameters())
        assert {value.dtype for value in lora.values()} == {torch.float16}
        before, merged = load_denoiser(base).unet.state_dict(), pipe.unet.state_dict()
        assert before.keys() == merged.keys()
        for name, weight in before.items():
            pair = f"unet.{name.removesuffix('.weight')}.lora_"
            if f"{pair}A.weight" in lora:
                down, up = (lora[f"{pair}{part}.weight"].float().flatten(1) for part in "AB")
                weight = weight + (up @ down).view(weight.shape)
            assert torch.allclose(merged[name], weight, atol=1e-5), name

    @pytest.mark.parametrize("count", [1, 2, 4])
    @pytest.mark.parametrize("guidance", [0, 1])
    def test_the_stock_pipeline_makes_what_was_trained(self, trained, paths, pipe, count, guidance):
        _, task, _ = trained
        path, conditions = task._part(paths, torch.arange(4))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            ends = task._sample(path, conditions, count)
            made = pipe(
                PROMPTS,
                num_inference_steps=count,
                guidance_scale=guidance,
                latents=path[:, 0],
                height=64,
                width=64,
                output_type="latent",
            ).images
        assert (made - ends).pow(2).mean() < 0.01 * (ends - path[:, -1]).pow(2).mean()

    def test_the_engine_takes_the_merged_unet(self, pipe):
        context, *_ = pipe.encode_prompt("a lake", do_classifier_free_guidance=False)
        added = {"text_embeds": context.new_zeros(1, 32), "time_ids": context.new_zeros(1, 6)}
        with torch.no_grad(), record(pipe.unet, ActivationCache()):
            pipe.unet(noise(1), torch.tensor(999), context, added_cond_kwargs=added)
