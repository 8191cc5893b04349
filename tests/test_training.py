"""The demo model's training: what a kill, a resume, a second worker and an export must not change."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn

from sparsedit.errors import InputError, SettingsError
from sparsedit.suites.scenes.scene import sample_scene
from training import captions, checkpoint, diffusion, pictures, settings
from training.attributes import ATTRIBUTES, attributes, labels
from training.export import export
from training.fused import fuse
from training.log import Log, read_log
from training.loop import Chance, Clock, Loop, Run, rate_factor
from training.models import load_denoiser, load_tokenizers, new_scheduler
from training.muon import Adam, Muon, orthogonal
from training.parts import make_parts, pick, read_parts
from training.settings import DEMO, Schedule
from training.tokenizer import write_tokenizer
from training.workers import Crew, Note, WorkerLostError, run_crew

SCHEDULE = Schedule(minutes=1, batch=4, rate=0.05, adam_rate=0.01, warm_up=5, meet_every=5, save_seconds=10)


@dataclass(frozen=True)
class ToySettings:
    schedule: Schedule = SCHEDULE
    width: int = 16


class KilledError(Exception):
    pass


class ToyTask:
    """A linear map to be learnt from noisy examples; one second passes per step, until it is killed."""

    def __init__(self, killed_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
        self.target = torch.eye(16).roll(3, 1)
        self.more = torch.zeros(3)
        self.seconds = 0.0
        self.killed_at = killed_at

    def named_parameters(self):
        return list(self.model.named_parameters())

    def more_state(self):
        return [self.more]

    def loss(self, step, chance):
        if step == self.killed_at:
            raise KilledError
        self.seconds += 1
        self.more += 1
        inputs = 0.3 * torch.randn(4, 16, generator=chance.torch) + 0.1 * float(chance.numpy.random())
        return (self.model(inputs) - inputs @ self.target).pow(2).mean(), 4

    @torch.no_grad()
    def validate(self):
        return {"error": float((self.model(torch.eye(16)) - self.target).pow(2).mean())}


def train(task: ToyTask, folder: Path, name: str, *, resume: bool = True, settings=None) -> Loop:
    run = Run(name, settings or ToySettings(), resume, work=folder, log=folder)
    loop = Loop(task, run, Crew(), Clock(lambda: task.seconds))
    loop.train()
    return loop


class TestLoop:
    def test_a_killed_and_resumed_run_ends_as_an_uninterrupted_one(self, tmp_path):
        whole = train(ToyTask(), tmp_path, "whole")
        for killed_at in (23, 47):
            with pytest.raises(KilledError):
                train(ToyTask(killed_at), tmp_path, "killed")
        resumed = train(ToyTask(), tmp_path, "killed")
        assert resumed.step == whole.step == 60
        one, other = (checkpoint.load(tmp_path / f"{name}.pt") for name in ("whole", "killed"))
        for key in ("parameters", "average"):
            assert all(torch.equal(one[key][name], other[key][name]) for name in one[key])
        for key in ("optimizer", "more"):
            assert all(map(torch.equal, one[key], other[key]))
        steps = [[row["step"] for row in read_log(tmp_path / f"{name}.jsonl")] for name in ("whole", "killed")]
        assert steps[0] == steps[1] == [0, *range(5, 61, 5)]

    def test_it_learns_and_validates_the_average(self, tmp_path):
        loop = train(ToyTask(), tmp_path, "toy")
        rows = [row for row in read_log(tmp_path / "toy.jsonl") if "validation" in row]
        assert rows[-1]["validation"]["error"] < 0.5 * rows[0]["validation"]["error"]
        with loop.average.applied():
            assert loop.task.validate()["error"] == pytest.approx(rows[-1]["validation"]["error"], abs=1e-5)
        assert rows[0]["machine"]["processor"]["cores"] >= 1

    def test_other_settings_are_not_resumed_and_are_named(self, tmp_path):
        train(ToyTask(), tmp_path, "toy")
        changed = replace(ToySettings(), schedule=replace(SCHEDULE, rate=0.5))
        with pytest.raises(SettingsError, match=r"schedule\.rate.*--no-resume"):
            train(ToyTask(), tmp_path, "toy", settings=changed)
        train(ToyTask(), tmp_path, "toy", settings=changed, resume=False)

    def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(self, tmp_path, capsys):
        train(ToyTask(), tmp_path, "toy")
        assert train(ToyTask(), tmp_path, "toy").step == 60
        assert "--no-resume" in capsys.readouterr().err
        longer = replace(ToySettings(), schedule=replace(SCHEDULE, minutes=1.5))
        assert train(ToyTask(), tmp_path, "toy", settings=longer).step == 90

    def test_rates_rise_and_end_at_zero_with_the_time(self):
        schedule = replace(SCHEDULE, warm_up=10, fall=0.5)
        assert rate_factor(0, 0, schedule) == pytest.approx(0.1)
        assert rate_factor(10, 0.5, schedule) == 1
        assert rate_factor(10, 0.75, schedule) == pytest.approx(0.5)
        assert rate_factor(10, 1.0, schedule) == rate_factor(10, 1.2, schedule) == 0

    def test_chance_depends_on_its_numbers_alone(self):
        one, same, other = Chance(0, 1, 2), Chance(0, 1, 2), Chance(0, 2, 1)
        draws = [torch.rand(2, generator=chance.torch) for chance in (one, same, other)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


class TestCheckpoint:
    def test_a_save_that_fails_leaves_the_old_one(self, tmp_path, monkeypatch):
        path = tmp_path / "toy.pt"
        checkpoint.save(path, {"step": 1})

        def fail(state, stream):
            stream.write(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            checkpoint.save(path, {"step": 2})
        assert checkpoint.load(path) == {"step": 1}

    def test_a_missing_or_broken_one_is_a_sentence(self, tmp_path):
        with pytest.raises(InputError, match="There is no checkpoint"):
            checkpoint.load(tmp_path / "none.pt")
        (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
        with pytest.raises(InputError, match="cannot be read"):
            checkpoint.load(tmp_path / "broken.pt")


class TestLog:
    def test_a_line_cut_short_is_left_out_and_later_rows_are_dropped(self, tmp_path):
        log = Log(tmp_path / "log" / "toy.jsonl")
        log.begin({"name": "toy"})
        for step in (5, 10, 15):
            log.add({"step": step})
        with log.path.open("a") as stream:
            stream.write('{"step": 20, "lo')
        assert [row["step"] for row in read_log(log.path)] == [0, 5, 10, 15]
        log.resume(10)
        log.add({"step": 12})
        assert [row["step"] for row in read_log(log.path)] == [0, 5, 10, 12]


class TestMuon:
    @pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
    def test_updates_are_nearly_orthogonal_with_the_same_singular_vectors(self, shape):
        matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        found = orthogonal(matrix).float()
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.5
        assert values.max() < 1.3
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert nn.functional.cosine_similarity(found.flatten(1), (left @ right).flatten(1)).min() > 0.95

    def test_adam_is_torchs(self):
        ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
        adam = Adam([ours])
        reference = torch.optim.AdamW([theirs], lr=0.01, betas=adam.betas, weight_decay=0)
        for step in range(5):
            for parameter in (ours, theirs):
                parameter.grad = parameter.detach().sin() * (step + 1)
            adam.step(0.01)
            reference.step()
        assert torch.allclose(ours, theirs, atol=1e-6)

    def test_matrices_are_muons_and_the_rest_adams(self):
        named = [
            ("conv.weight", nn.Parameter(torch.ones(16, 16, 3, 3))),
            ("conv_in.weight", nn.Parameter(torch.ones(16, 16, 3, 3))),
            ("linear.bias", nn.Parameter(torch.ones(16))),
        ]
        optimizer = Muon(named)
        assert [tuple(tensor.shape) for tensor in optimizer.state()][:2] == [(1, 16, 144), (16, 16, 3, 3)]
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step(rate=0.0, adam_rate=0.01)
        assert torch.equal(named[0][1], torch.ones(16, 16, 3, 3))
        assert not torch.equal(named[1][1], torch.ones(16, 16, 3, 3))
        assert all(parameter.grad is None for _, parameter in named)

    def test_a_parameter_without_a_gradient_is_refused(self):
        with pytest.raises(ValueError, match="does not depend on"):
            Muon([("a", nn.Parameter(torch.ones(3)))]).step(0.1, 0.1)


def meet_twice(crew: Crew, folder: Path) -> None:
    """Two meetings of a crew; the leader writes down what it was left with."""
    tensors = [torch.full((2, 3), float(crew.rank)), torch.tensor(10.0 * crew.rank)]
    notes = [crew.meet(tensors, Note(crew.rank + 0.5, False))]
    tensors[0] += crew.rank
    notes.append(crew.meet(tensors, Note(1.5, crew.leads)))
    found = {"tensors": [tensor.tolist() for tensor in tensors], "notes": [vars(note) for note in notes]}
    (folder / f"{crew.rank}.json").write_text(json.dumps(found))


def lose_a_worker(crew: Crew, folder: Path) -> None:
    if crew.rank == 1:
        return
    crew.meet([torch.zeros(3)], Note(0, False))


class TestWorkers:
    def check(self, folder: Path) -> None:
        found = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
        assert found[0] == found[1]
        assert found[0]["tensors"] == [[[1.0] * 3] * 2, 5.0]
        assert found[0]["notes"] == [{"seconds": 0.5, "over": False}, {"seconds": 1.5, "over": True}]

    def test_a_meeting_averages_and_the_leader_keeps_the_time(self, tmp_path):
        ours, theirs = Pipe()
        follower = threading.Thread(target=meet_twice, args=(Crew(1, 2, [theirs]), tmp_path))
        follower.start()
        meet_twice(Crew(0, 2, [ours]), tmp_path)
        follower.join()
        self.check(tmp_path)

    def test_a_single_worker_meets_nobody(self):
        tensor = torch.ones(3)
        assert Crew().meet([tensor], Note(2.0, True)) == Note(2.0, True)
        assert torch.equal(tensor, torch.ones(3))

    def test_a_lost_worker_is_noticed(self):
        ours, theirs = Pipe()
        theirs.close()
        with pytest.raises(WorkerLostError):
            Crew(0, 2, [ours]).meet([torch.ones(3)], Note(0, False))

    @pytest.mark.slow
    def test_processes_meet_as_threads_do(self, tmp_path):
        run_crew(2, meet_twice, tmp_path)
        self.check(tmp_path)

    @pytest.mark.slow
    def test_a_process_that_ends_early_ends_the_training(self, tmp_path):
        with pytest.raises(WorkerLostError, match="resume it"):
            run_crew(2, lose_a_worker, tmp_path)


def count_calls(seeds):
    return np.array([[seed, 2 * seed] for seed in seeds])


class TestParts:
    def test_parts_that_are_there_are_kept(self, tmp_path):
        seeds = list(range(600))
        make_parts(tmp_path, seeds, {"of": 1}, count_calls, workers=1)
        (tmp_path / "0001.npy").unlink()
        with pytest.raises(InputError, match="lacks 1 of 3 parts"):
            read_parts(tmp_path)
        before = (tmp_path / "0000.npy").stat().st_mtime_ns
        make_parts(tmp_path, seeds, {"of": 1}, count_calls, workers=1)
        found, parts = read_parts(tmp_path)
        assert (tmp_path / "0000.npy").stat().st_mtime_ns == before
        assert found.tolist() == seeds
        assert pick(parts, np.array([599, 0, 250])).tolist() == [[599, 1198], [0, 0], [250, 500]]

    def test_another_recipe_is_refused(self, tmp_path):
        make_parts(tmp_path, [1], {"of": 1}, count_calls, workers=1)
        with pytest.raises(InputError, match="other settings"):
            make_parts(tmp_path, [1], {"of": 2}, count_calls, workers=1)


class TestPictures:
    def test_no_training_seed_is_held_out_or_an_edits(self):
        trained = [settings.SQUARE, settings.WIDE, settings.PICTURES, settings.PROBE]
        kept = 0.1  # at least this share of the scenes passes `SceneShares`
        ranges = [(part.first_seed, part.first_seed + round(part.count / kept)) for part in trained]
        assert all(end <= 5_000_000 for _, end in ranges)
        assert settings.HELD_OUT.first_seed >= 5_000_000
        starts = sorted(ranges)
        assert all(end <= start for (_, end), (start, _) in pairwise(starts))

    def test_scenes_with_objects_are_picked_more_often(self):
        part = settings.PictureSet("some", 400, 0)
        plain, picked = (pictures.scene_seeds(replace(part, picked=flag)) for flag in (False, True))
        assert plain == list(range(400))
        assert picked == sorted(set(picked))
        share = [np.mean([sample_scene(seed).house is not None for seed in seeds]) for seeds in (plain, picked)]
        assert share[1] > share[0] + 0.08

    def test_objects_weigh_more(self):
        scene = next(scene for scene in map(sample_scene, range(100)) if scene.house and scene.trees == "none")
        weights = pictures.object_weights(scene, settings.ObjectWeights())
        assert weights.shape == (32, 32)
        row, column = int(scene.house.y - 10) // 8, int(scene.house.x) // 8
        assert weights[row, column] == 1 + settings.ObjectWeights().house
        assert weights.min() == 1
        assert (weights == 1).mean() > 0.7

    def test_pictures_survive_the_way_to_tensors_and_back(self):
        picture = pictures.render_all(256, [3])
        assert np.array_equal(pictures.to_pictures(pictures.to_tensor(picture)), picture)
        assert pictures.render_small(128, [3]).shape == (1, 128, 128, 3)


class TestCaptions:
    scenes = tuple(map(sample_scene, range(300)))

    def test_a_scored_caption_says_where_the_house_is_and_its_roof(self):
        for scene in self.scenes[:100]:
            text = captions.full_caption(scene, scene.seed)
            if scene.house:
                assert captions.says_position(text, scene.house)
                assert f"{scene.house.roof} roof" in text

    def test_most_training_captions_say_where_the_house_is(self):
        rng = np.random.default_rng(0)
        houses = [scene for scene in self.scenes if scene.house]
        texts = [captions.training_caption(scene, rng, settings.CaptionSettings()) for scene in houses]
        said = np.mean([captions.says_position(t, s.house) for t, s in zip(texts, houses, strict=True)])
        assert 0.8 < said < 1

    def test_tokens_fill_up_as_each_encoder_expects(self):
        tokens = captions.tokenize(["a red house", "a lake " * 60], load_tokenizers(DEMO))
        assert tokens.first.shape == tokens.second.shape == (2, 48)
        assert tokens.first[0, -1] == 813
        assert tokens.second[0, -1] == 0
        assert torch.equal(tokens.first[1], tokens.second[1])

    def test_the_tokenizers_are_the_embedded_ones(self, tmp_path):
        for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
            write_tokenizer(tmp_path / name, padding)
            for file in ("vocab.json", "merges.txt"):
                assert (tmp_path / name / file).read_bytes() == (DEMO / name / file).read_bytes()


class TestDiffusion:
    def test_the_last_level_is_noise_alone_and_the_rest_the_samplers(self):
        shares = diffusion.signal_shares()
        assert shares[-1] == 0
        assert torch.allclose(shares[:-1], new_scheduler().alphas_cumprod[:-1], atol=1e-5)

    def test_levels_are_one_from_each_range(self):
        levels = diffusion.stratified_levels(10, torch.Generator().manual_seed(0))
        assert sorted((levels // 100).tolist()) == list(range(10))


class TestAttributes:
    def test_every_scene_has_a_value_of_every_attribute(self):
        for scene in map(sample_scene, range(50)):
            values = attributes(scene)
            assert [ATTRIBUTES[name][place] for name, place in zip(ATTRIBUTES, labels(scene), strict=True)] == list(
                values.values()
            )


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 24),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
    )


class TestFused:
    @pytest.mark.parametrize("size", [8, 24])
    def test_outputs_and_gradients_are_the_models_own(self, size):
        plain, fused = tiny_unet(), tiny_unet()
        fuse(fused)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, 4, size, size, generator=generator)
        context = torch.randn(2, 5, 16, generator=generator)
        for model in (plain, fused):
            model(latents, torch.tensor([10, 900]), context).sample.pow(2).mean().backward()
        assert list(plain.state_dict()) == list(fused.state_dict())
        for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
            assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5), name


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A model with other weights, exported, and those weights."""
    folder = tmp_path_factory.mktemp("export")
    average = {name: value.detach().clone() for name, value in load_denoiser(DEMO).named_parameters()}
    changed = average["unet.conv_in.weight"]
    changed += 0.25
    checkpoint.save(folder / "unet.pt", {"average": average})
    export(DEMO, folder / "model", folder / "unet.pt", None)
    return folder / "model", changed


class TestExport:
    def test_it_loads_plainly_in_one_dtype_with_the_new_weights(self, exported):
        folder, changed = exported
        pipe = StableDiffusionXLPipeline.from_pretrained(folder)
        models = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
        assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.float32}
        assert torch.equal(pipe.unet.conv_in.weight, changed.half().float())
        assert pipe.scheduler.config.prediction_type == "v_prediction"
        assert not any(pipe.text_encoder.state_dict()[name].any() for name in unread(pipe.text_encoder))

    def test_weights_are_small_and_the_tokenizers_kept(self, exported):
        folder, _ = exported
        assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 24e6
        for path in DEMO.glob("tokenizer*/*"):
            assert (folder / path.relative_to(DEMO)).read_bytes() == path.read_bytes()
        assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "unet.pt"]

    def test_no_configuration_names_a_place_on_this_machine(self, exported):
        folder, _ = exported
        configurations = list(folder.rglob("*.json"))
        assert configurations
        assert not any(str(DEMO.parent) in path.read_text() for path in configurations)

    def test_a_folder_that_is_no_pipelines_is_a_sentence(self, tmp_path):
        with pytest.raises(InputError, match="has no vae"):
            export(tmp_path, tmp_path / "model", None, tmp_path / "decoder.pt")

    def test_a_foreign_checkpoint_is_refused_and_nothing_written(self, tmp_path):
        checkpoint.save(tmp_path / "other.pt", {"average": {"unet.other": torch.ones(1)}})
        with pytest.raises(InputError, match=r"of another model: it has unet\.other"):
            export(DEMO, tmp_path / "model", tmp_path / "other.pt", None)
        assert not (tmp_path / "model").exists()


def unread(text_encoder: nn.Module) -> list[str]:
    return [name for name, _ in text_encoder.named_parameters() if "layers.2." in name]
