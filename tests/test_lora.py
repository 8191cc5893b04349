"""A LoRA is fused on loading: its effect stays, its layers do not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from sparsedit.errors import ModelError, SettingsError
from sparsedit.models.loading import load_pipeline
from tests.pipelines import tiny_sd15, tiny_sdxl

FILE = "pytorch_lora_weights.safetensors"
LAYERS = ["to_q", "to_v", "conv1", "proj_in"]


def draw_lora(model: Any, targets: list[str], seed: int) -> dict[str, torch.Tensor]:
    """A LoRA of rank 4 with random halves for the layers of `model` that end like `targets`."""
    model.add_adapter(LoraConfig(r=4, target_modules=targets), adapter_name="drawn")
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return get_peft_model_state_dict(model, adapter_name="drawn")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny SDXL and a LoRA for its UNet and its first text encoder, each saved by diffusers."""
    root = tmp_path_factory.mktemp("lora")
    pipe: Any = tiny_sdxl()
    pipe.save_pretrained(root / "model")
    pipe.save_lora_weights(
        root / "style",
        unet_lora_layers=draw_lora(pipe.unet, LAYERS, 0),
        text_encoder_lora_layers=draw_lora(pipe.text_encoder, ["q_proj", "out_proj"], 1),
    )
    return {"model": root / "model", "lora": root / "style"}


@pytest.fixture
def lora(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the LoRA's folder that a test may change."""
    return shutil.copytree(folders["lora"], tmp_path / "style")


def load(folders: dict[str, Path], lora: Path | str | None) -> Any:
    return load_pipeline(str(folders["model"]), dtype="float32", device="cpu", lora=None if lora is None else str(lora))


def refused(folders: dict[str, Path], lora: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load(folders, lora)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["folder", "file"])
def test_weights_are_the_models_plus_the_product_of_its_halves(folders: dict[str, Path], place: str) -> None:
    plain, fused = load(folders, None), load(folders, folders["lora"] / (FILE if place == "file" else ""))
    halves = load_file(folders["lora"] / FILE)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    delta = halves[f"unet.{name}.lora_B.weight"] @ halves[f"unet.{name}.lora_A.weight"]
    before, after = (pipe.unet.get_submodule(name).weight for pipe in (plain, fused))
    assert torch.allclose(after, before + delta, atol=1e-6)
    assert delta.abs().max() > 0.01


def test_every_layer_it_names_changes_and_no_other(folders: dict[str, Path]) -> None:
    plain, fused = load(folders, None), load(folders, folders["lora"])
    named = {key.partition(".lora_")[0] + ".weight" for key in load_file(folders["lora"] / FILE)}
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        after = getattr(fused, part).state_dict()
        changed = {
            f"{part}.{key}" for key, weight in getattr(plain, part).state_dict().items() if (weight != after[key]).any()
        }
        assert changed == {key for key in named if key.startswith(f"{part}.")}


def test_nothing_of_it_is_left_in_the_model(folders: dict[str, Path]) -> None:
    plain, fused = load(folders, None), load(folders, folders["lora"])
    for part in ("unet", "text_encoder"):
        before, after = getattr(plain, part), getattr(fused, part)
        assert [type(module) for module in after.modules()] == [type(module) for module in before.modules()]
        assert after.state_dict().keys() == before.state_dict().keys()
        assert not hasattr(after, "peft_config")
        assert not any(module._forward_hooks for module in after.modules())
    kernel = fused.unet.conv_in.weight
    assert kernel.permute(0, 2, 3, 1).is_contiguous()


def test_it_paints_what_diffusers_paints_with_it(folders: dict[str, Path]) -> None:
    options: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    stock, fused, plain = tiny_sdxl(), load(folders, folders["lora"]), load(folders, None)
    stock.load_lora_weights(folders["lora"])
    pictures = []
    for pipe in (stock, fused, plain):
        pipe.set_progress_bar_config(disable=True)
        pictures.append(pipe("a house", generator=torch.Generator().manual_seed(0), **options).images)
    assert torch.allclose(pictures[0], pictures[1], atol=1e-4)
    assert (pictures[1] - pictures[2]).abs().max() > 0.01


def test_the_older_layout_of_lora_files(folders: dict[str, Path], lora: Path) -> None:
    """As kohya's trainer writes them, and LCM-LoRA is published: flat names, `alpha` beside the halves."""
    old = {}
    for key, weight in load_file(lora / FILE).items():
        if key.startswith("unet."):
            layer, _, half = key.removeprefix("unet.").partition(".lora_")
            flat = "lora_unet_" + layer.replace(".", "_")
            old[f"{flat}.lora_{'down' if half.startswith('A') else 'up'}.weight"] = weight
            old[f"{flat}.alpha"] = torch.tensor(8.0)
    save_file(old, lora / FILE)
    plain, modern, older = (load(folders, place).unet.state_dict() for place in (None, folders["lora"], lora))
    # An alpha of 8 at rank 4 counts the product twice.
    expected = {key: weight + 2 * (modern[key] - weight) for key, weight in plain.items()}
    assert all(torch.allclose(older[key], weight, atol=1e-5) for key, weight in expected.items())


class TestRefused:
    def test_a_lora_for_another_model(self, folders: dict[str, Path], tmp_path: Path) -> None:
        other: Any = tiny_sd15()
        other.save_lora_weights(tmp_path, unet_lora_layers=draw_lora(other.unet, ["to_q"], 0))
        assert f"the LoRA {tmp_path / FILE}" in refused(folders, tmp_path)

    def test_a_lora_with_layers_the_model_has_not(self, folders: dict[str, Path], lora: Path) -> None:
        weights = load_file(lora / FILE)
        for half, shape in (("A", (4, 32)), ("B", (32, 4))):
            weights[f"unet.down_blocks.7.attentions.0.to_q.lora_{half}.weight"] = torch.zeros(shape)
        save_file(weights, lora / FILE)
        assert "does not belong to this model: 48 of its 49 layers have a place in it" in refused(folders, lora)

    def test_a_file_without_a_lora(self, folders: dict[str, Path], lora: Path) -> None:
        save_file({"weight": torch.zeros(2)}, lora / FILE)
        assert "cannot be loaded" in refused(folders, lora)

    def test_a_pickle(self, folders: dict[str, Path], tmp_path: Path) -> None:
        torch.save({}, tmp_path / "style.bin")
        assert "is no .safetensors file" in refused(folders, tmp_path / "style.bin")
        assert "it holds none" in refused(folders, tmp_path)

    def test_a_folder_with_several(self, folders: dict[str, Path], lora: Path) -> None:
        shutil.copy(lora / FILE, lora / "a.safetensors")
        (lora / FILE).rename(lora / "b.safetensors")
        assert "it holds 2 of them" in refused(folders, lora)

    def test_a_place_that_is_none(self, folders: dict[str, Path]) -> None:
        assert refused(folders, "nowhere") == "there is no LoRA 'nowhere': give a file, a folder or a hub id"

    def test_random_weights(self, folders: dict[str, Path], lora: Path) -> None:
        with pytest.raises(SettingsError, match="a LoRA means nothing to random weights"):
            load_pipeline(str(folders["model"]), weights="random", lora=str(lora))
