"""Real diffusers folders are loaded as they are; everything else gets one sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub.constants
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from sparsedit.errors import ModelError, SettingsError
from sparsedit.models import hub, placement
from sparsedit.models.loading import load_pipeline, model_revision
from sparsedit.models.placement import dtype_reason, resolve_device, resolve_dtype
from sparsedit.models.presets import PRESETS
from sparsedit.models.random import random_pipeline

HUB_ID = "someone/tiny-xl"
CPU = torch.device("cpu")
UNET = {
    "block_out_channels": [16, 16, 16],
    "attention_head_dim": [1, 1, 1],
    "norm_num_groups": 8,
    "transformer_layers_per_block": [1, 1, 1],
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A tiny pipeline of SDXL's layout, saved by diffusers itself. Not to be changed: see `folder`."""
    configs = tmp_path_factory.mktemp("configs") / "tiny"
    shutil.copytree(PRESETS["demo"].embedded_folder, configs, ignore=shutil.ignore_patterns("*.safetensors"))
    unet = configs / "unet" / "config.json"
    unet.write_text(json.dumps(json.loads(unet.read_text()) | UNET))
    target = tmp_path_factory.mktemp("saved") / "tiny"
    random_pipeline(configs).save_pretrained(target)
    return target


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved pipeline that a test may damage."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def edit_index(folder: Path, **changes: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def dtypes(pipe: DiffusionPipeline) -> set[torch.dtype]:
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(modules) == 4
    return {parameter.dtype for module in modules for parameter in module.parameters()}


def refused(name: object, **options: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_pipeline(str(name), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("demo", device="cpu")


class TestDemo:
    def test_all_parts_share_one_dtype(self, pipe):
        assert isinstance(pipe, StableDiffusionXLPipeline)
        assert dtypes(pipe) == {torch.float32}

    def test_paints_without_a_word_on_stderr(self, pipe, capfd):
        generator = torch.Generator().manual_seed(0)
        options = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
        picture = pipe("a red house on a meadow", generator=generator, **options).images
        assert picture.isfinite().all()
        assert picture.std() > 0.05
        assert capfd.readouterr().err == ""

    def test_dtype_can_be_chosen(self):
        assert dtypes(load_pipeline("demo", dtype="bfloat16", device="cpu")) == {torch.bfloat16}

    def test_has_no_revision_of_the_hub(self, pipe):
        assert model_revision(pipe) is None

    def test_with_random_weights(self, pipe):
        other = load_pipeline("demo", weights="random", device="cpu")
        assert type(other) is type(pipe)
        assert not torch.equal(other.unet.conv_in.weight, pipe.unet.conv_in.weight)


class TestFolder:
    def test_weights_are_the_saved_ones(self, saved, capfd):
        pipe = load_pipeline(str(saved), dtype="float32", device="cpu")
        assert isinstance(pipe, StableDiffusionXLPipeline)
        assert dtypes(pipe) == {torch.float32}
        assert pipe.unet.config.block_out_channels == [16, 16, 16]
        original = random_pipeline(saved)
        for name, weight in original.unet.state_dict().items():
            assert torch.equal(weight, pipe.unet.state_dict()[name])
        assert capfd.readouterr().err == ""

    def test_kernels_are_rows_in_memory(self, saved):
        pipe = load_pipeline(str(saved), dtype="float32", device="cpu")
        for model in (pipe.unet, pipe.vae):
            kernels = [module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
            assert all(kernel.permute(0, 2, 3, 1).is_contiguous() for kernel in kernels)

    def test_class_is_the_one_the_index_names(self, folder):
        edit_index(folder, _class_name="StableDiffusionXLImg2ImgPipeline")
        assert isinstance(load_pipeline(str(folder), device="cpu"), StableDiffusionXLImg2ImgPipeline)

    def test_a_folder_called_like_a_preset_needs_a_path(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        folder.rename("demo")
        assert load_pipeline("demo", device="cpu").unet.config.block_out_channels != [16, 16, 16]
        assert load_pipeline("./demo", device="cpu").unet.config.block_out_channels == [16, 16, 16]

    def test_random_weights_need_the_configuration_alone(self, folder):
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()
        assert load_pipeline(str(folder), weights="random", device="cpu").unet.conv_in.weight.isfinite().all()

    @pytest.mark.parametrize("weights", ["real", "random"])
    def test_options_of_the_index_are_kept_and_none_is_made_up(self, folder, weights):
        edit_index(folder, force_zeros_for_empty_prompt=False, trust_remote_code=True, unheard_of=1)
        pipe = load_pipeline(str(folder), weights=weights, device="cpu")
        assert pipe.config.force_zeros_for_empty_prompt is False

    def test_progress_bars_are_left_as_they_were(self, saved):
        assert diffusers_logging.is_progress_bar_enabled()
        load_pipeline(str(saved), device="cpu")
        assert diffusers_logging.is_progress_bar_enabled()


class TestBadFolder:
    def test_missing(self, tmp_path):
        assert refused(tmp_path / "nothing") == f"model folder {tmp_path / 'nothing'} does not exist"

    def test_a_file(self, tmp_path):
        (tmp_path / "model.safetensors").touch()
        assert "is not a valid safetensors file" in refused(tmp_path / "model.safetensors")

    def test_not_a_diffusers_folder(self, tmp_path):
        assert "has no model_index.json" in refused(tmp_path)

    @pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]", b""])
    def test_index_is_not_an_object(self, folder, content):
        (folder / "model_index.json").write_bytes(content)
        assert "model_index.json" in refused(folder)

    @pytest.mark.parametrize("name", ["NoSuchPipeline", ["pipeline", "Own"], None, "AutoencoderKL"])
    def test_pipelines_of_their_own_are_not_run(self, folder, name):
        (folder / "pipeline.py").write_text("raise SystemExit('ran')")
        edit_index(folder, _class_name=name)
        assert "code of their own are not run" in refused(folder)

    @pytest.mark.parametrize(
        "entry", [["os", "system"], ["unet", "Own"], ["diffusers", "NoSuchModel"], ["diffusers"], [1, 2]]
    )
    def test_components_of_their_own_are_not_run(self, folder, entry):
        (folder / "unet" / "unet.py").write_text("raise SystemExit('ran')")
        edit_index(folder, unet=entry)
        assert "'unet'" in refused(folder)

    @pytest.mark.parametrize("weights", ["real", "random"])
    def test_index_without_a_component(self, folder, weights):
        path = folder / "model_index.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "vae"}))
        assert "names no vae, which StableDiffusionXLPipeline needs" in refused(folder, weights=weights)

    @pytest.mark.parametrize(
        ("part", "pickle"),
        [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")],
    )
    def test_pickles_are_not_read(self, folder, part, pickle):
        (weights,) = (folder / part).glob("*.safetensors")
        weights.unlink()
        torch.save({}, folder / part / pickle)
        assert "cannot be loaded" in refused(folder)

    @pytest.mark.parametrize("part", ["unet", "text_encoder"])
    def test_truncated_weights(self, folder, part):
        (weights,) = (folder / part).glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:1000])
        assert f"the model in {folder / part} cannot be loaded" in refused(folder)

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2"])
    def test_a_weight_that_is_missing_is_not_made_up(self, folder, part, capfd):
        (file,) = (folder / part).glob("*.safetensors")
        tensors = load_file(file)
        name = sorted(tensors)[3]
        del tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
        assert f"1 of its weights are missing (the first: {name})" in refused(folder)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize(
        ("part", "change"),
        [("unet", {"block_out_channels": [16, 16, 32]}), ("text_encoder", {"hidden_size": 32})],
    )
    def test_weights_of_another_architecture(self, folder, part, change, capfd):
        config = folder / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
        assert re.search(r"cannot be loaded: .*(mismatched|expected shape)", refused(folder))
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("part", ["vae", "tokenizer", "scheduler", "text_encoder_2"])
    def test_missing_component(self, folder, part):
        shutil.rmtree(folder / part)
        assert f"lacks its {part}" in refused(folder)

    @pytest.mark.parametrize(
        "part", ["unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"]
    )
    def test_broken_configuration(self, folder, part):
        (folder / part).write_text("{")
        assert "cannot be loaded" in refused(folder)


class TestHub:
    def test_offline_and_not_cached(self, cache, capfd):
        sentence = refused(HUB_ID)
        assert f"model {HUB_ID} is not on this machine and the hub cannot be reached" in sentence
        assert sentence.endswith(f"run: sparsedit models pull {HUB_ID}")
        assert capfd.readouterr().err == ""

    def test_preset_offline_and_not_cached(self, cache):
        assert PRESETS["sdxl"].fetch_command in refused("sdxl")

    def test_offline_and_cached(self, cache, saved):
        repository = cache / "models--someone--tiny-xl"
        shutil.copytree(saved, repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        pipe = load_pipeline(HUB_ID, device="cpu")
        assert pipe.unet.config.block_out_channels == [16, 16, 16]
        assert model_revision(pipe) == "0" * 40

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (GatedRepoError, "is gated: accept its terms at https://huggingface.co/someone/tiny-xl"),
            (RepositoryNotFoundError, "the hub has no model someone/tiny-xl"),
            (RevisionNotFoundError, "has no revision"),
            (RemoteEntryNotFoundError, "is not a diffusers pipeline"),
            (HfHubHTTPError, "the hub cannot be reached"),
        ],
    )
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_what_the_hub_answers_is_told_apart(self, monkeypatch, error, expected, wrapped):
        def download(*args: object, **kwargs: object) -> None:
            answer = error("an answer", response=Mock(headers={}))
            if wrapped:  # as diffusers does when its first question to the hub failed
                raise OSError("Cannot load model") from answer
            raise answer

        monkeypatch.setattr(hub.DiffusionPipeline, "download", download)
        assert expected in refused(HUB_ID)

    def test_other_failures_keep_their_reason(self, monkeypatch):
        monkeypatch.setattr(hub.DiffusionPipeline, "download", Mock(side_effect=OSError(28, "No space left on device")))
        assert "No space left on device" in refused(HUB_ID)

    def test_only_safetensors_and_no_code_are_asked_for(self, monkeypatch, saved):
        download = Mock(return_value=str(saved))
        monkeypatch.setattr(hub.DiffusionPipeline, "download", download)
        load_pipeline(HUB_ID, device="cpu")
        assert download.call_args.kwargs["use_safetensors"] is True
        assert download.call_args.kwargs["trust_remote_code"] is False

    def test_random_weights_of_a_hub_model_are_refused(self, cache):
        assert "random weights need a preset, folder or file" in refused(HUB_ID, weights="random")


def test_unknown_name_and_weights():
    assert "did you mean 'sdxl'?" in refused("sdxll")
    with pytest.raises(SettingsError, match="unknown weights 'fake': use real or random"):
        load_pipeline("demo", weights="fake")


class TestPlacement:
    def test_auto_is_the_cpu_without_an_accelerator(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert resolve_device("auto") == CPU
        for name in ("cuda", "cuda:0", "mps"):
            with pytest.raises(SettingsError, match=f"'{name}'.*use --device auto or cpu"):
                resolve_device(name)

    def test_gpus_are_counted(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
        assert resolve_device("cuda:0") == torch.device("cuda", 0)
        with pytest.raises(SettingsError, match="this machine's GPUs are cuda:0 to cuda:1"):
            resolve_device("cuda:2")

    @pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "CPU", ""])
    def test_unknown_device(self, name):
        with pytest.raises(SettingsError, match="use auto, cpu, cuda, cuda:N or mps"):
            resolve_device(name)

    @pytest.mark.parametrize(
        ("device", "preset", "bf16", "expected"),
        [
            ("cuda", "demo", False, torch.bfloat16),
            ("cuda", "sdxl", False, torch.bfloat16),
            ("cpu", "demo", True, torch.float32),
            ("cpu", "sdxl", True, torch.bfloat16),
            ("cpu", "sdxl", False, torch.float32),
            ("cpu", None, True, torch.bfloat16),
            ("mps", "sdxl", True, torch.float32),
        ],
    )
    def test_auto_dtype(self, monkeypatch, device, preset, bf16, expected):
        monkeypatch.setattr(placement, "cpu_has_bf16", lambda: bf16)
        chosen = ("auto", torch.device(device), PRESETS.get(preset))
        assert resolve_dtype(*chosen) == expected
        assert dtype_reason(*chosen)

    def test_dtype_asked_for(self):
        assert resolve_dtype("float16", CPU) == torch.float16
        assert dtype_reason("float16", CPU) == "asked for"
        with pytest.raises(SettingsError, match=r"unknown dtype 'bfloat':.*did you mean 'bfloat16'"):
            resolve_dtype("bfloat", CPU)
