"""One `.safetensors` file in the authors' layout is the same model as its diffusers folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedit.errors import ModelError
from sparsedit.models.loading import load_pipeline
from sparsedit.models.presets import PRESETS
from sparsedit.models.random import random_pipeline
from sparsedit.models.single_file import recognise
from tests.original import original_layout
from tests.pipelines import tiny_refiner, tiny_sd15, tiny_sd21, tiny_sdxl

LAYOUTS: dict[str, Callable[[], Any]] = {
    "sdxl": lambda: tiny_sdxl(wide=True),
    "sdxl-inpaint": lambda: tiny_sdxl(wide=True, in_channels=9),
    "refiner": tiny_refiner,
    "sd15": tiny_sd15,
    "sd21": tiny_sd21,
}


def save(pipe: Any, folder: Path) -> Path:
    """The pipeline as one file at the root of a repository, as on the hub: its configuration lies beside it."""
    pipe.save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    file = folder / "model.safetensors"
    save_file(original_layout(pipe), file, metadata={"format": "pt"})
    return file


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL in one file. Not to be changed: see `file`."""
    return save(LAYOUTS["sdxl"](), tmp_path_factory.mktemp("single") / "model")


@pytest.fixture
def file(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return shutil.copytree(saved.parent, tmp_path / "model") / saved.name


def refused(name: object, **options: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_pipeline(str(name), device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_weight_arrives_where_it_came_from(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipe = LAYOUTS[name]()
    file = save(pipe, tmp_path)
    capfd.readouterr()
    loaded: Any = load_pipeline(str(file), dtype="float32", device="cpu")
    assert type(loaded) is type(pipe)
    for part, model in pipe.components.items():
        if isinstance(model, torch.nn.Module):
            found = getattr(loaded, part).state_dict()
            assert found.keys() == model.state_dict().keys()
            assert all(torch.equal(weight, found[key]) for key, weight in model.state_dict().items())
            assert not getattr(loaded, part).training
    assert type(loaded.scheduler) is type(pipe.scheduler)
    assert capfd.readouterr().err == ""


def test_it_paints_what_its_folder_paints(file: Path) -> None:
    options: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    loaded: Any = load_pipeline(str(file), dtype="float32", device="cpu")
    for pipe in (loaded, before := LAYOUTS["sdxl"]()):
        pipe.set_progress_bar_config(disable=True)
    one, other = (
        pipe("a house", generator=torch.Generator().manual_seed(0), **options).images for pipe in (loaded, before)
    )
    # Kernels lie in another order in memory, so that sums may be taken in another.
    assert torch.allclose(one, other, atol=1e-5)


def test_weights_take_the_dtype_and_order_asked_for(file: Path) -> None:
    loaded: Any = load_pipeline(str(file), dtype="bfloat16", device="cpu")
    models = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    assert {weight.dtype for model in models for weight in model.parameters()} == {torch.bfloat16}
    assert loaded.unet.conv_in.weight.permute(0, 2, 3, 1).is_contiguous()


def test_random_weights_need_its_architecture_alone(file: Path) -> None:
    loaded: Any = load_pipeline(str(file), weights="random", device="cpu")
    assert loaded.unet.config.cross_attention_dim == 80
    assert not torch.equal(loaded.unet.conv_in.weight, LAYOUTS["sdxl"]().unet.conv_in.weight)


@pytest.mark.parametrize("name", ["sdxl", "sdxl-refiner", "sdxl-inpaint", "sd15", "sd21"])
def test_architectures_are_recognised_by_their_weights(name: str) -> None:
    pipe = random_pipeline(PRESETS[name], torch.bfloat16, device="meta")
    shapes = {key: tuple(weight.shape) for key, weight in original_layout(pipe).items()}
    assert recognise(shapes) == name


def test_an_architecture_like_sdxl_is_not_taken_for_it() -> None:
    pipe = random_pipeline(PRESETS["ssd-1b"], torch.bfloat16, device="meta")
    assert recognise({key: tuple(weight.shape) for key, weight in original_layout(pipe).items()}) is None


class TestWithAPreset:
    """`PRESET:FILE` is the preset's architecture and settings with the file's weights."""

    def test_the_presets_architecture_is_asked_of_the_file(self, file: Path) -> None:
        assert refused(f"sdxl-turbo:{file}").startswith(f"the model in {file} cannot be loaded: ")

    def test_a_file_that_is_not_there(self) -> None:
        assert refused("sdxl-turbo:nowhere.safetensors") == "model file nowhere.safetensors does not exist"


class TestBadFile:
    def test_a_pickle_is_not_read(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "model.ckpt")
        assert "is no .safetensors file; weights are read from no other" in refused(tmp_path / "model.ckpt")

    @pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\xff" * 64])
    def test_no_safetensors_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(content)
        assert "is not a valid safetensors file" in refused(tmp_path / "model.safetensors")

    def test_truncated(self, file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-1000])
        assert "is not a valid safetensors file" in refused(file)

    def test_a_part_in_diffusers_layout(self, tmp_path: Path) -> None:
        save_file(LAYOUTS["sd15"]().unet.state_dict(), tmp_path / "unet.safetensors")
        assert "is not a whole model in the original layout" in refused(tmp_path / "unet.safetensors")

    def test_a_lora(self, tmp_path: Path) -> None:
        save_file({"lora_unet_down.lora_down.weight": torch.zeros(4, 8)}, tmp_path / "style.safetensors")
        assert "is a LoRA: give it with --lora" in refused(tmp_path / "style.safetensors")

    def test_an_unknown_architecture(self, file: Path, tmp_path: Path) -> None:
        lone = shutil.copy(file, tmp_path / "lone.safetensors")
        weights = {key: weight for key, weight in load_file(lone).items() if not key.startswith("conditioner.")}
        save_file(weights, lone)
        assert "is not recognised: name a preset with it" in refused(lone)

    @pytest.mark.parametrize(
        "name",
        [
            "model.diffusion_model.middle_block.0.in_layers.2.weight",
            "first_stage_model.decoder.conv_in.weight",
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
            "conditioner.embedders.1.model.ln_final.bias",
        ],
    )
    def test_a_weight_that_is_missing_is_not_made_up(self, file: Path, name: str) -> None:
        weights = load_file(file)
        del weights[name]
        save_file(weights, file)
        assert "cannot be loaded" in refused(file)

    def test_weights_of_another_architecture(self, file: Path) -> None:
        config = file.parent / "unet" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [32, 96]}))
        assert "cannot be loaded" in refused(file)


def test_a_file_knows_the_vaes_of_its_kind(file: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no VAE 'tinny': give tiny, fp16-fix \(with this model\)"):
        load_pipeline(str(file), vae="tinny", device="cpu")
