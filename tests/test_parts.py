"""Another VAE and a ControlNet beside a model: by name, from a folder, from the hub's cache, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)

from sparsedit.errors import ModelError
from sparsedit.models.loading import load_pipeline
from sparsedit.models.presets import PRESETS, Part
from tests.pipelines import tiny_sd15, tiny_sdxl, tiny_vae_kl, tiny_vae_taesd


def control_for(pipe: Any) -> ControlNetModel:
    torch.manual_seed(3)
    return ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8, 8, 12))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL with companions in folders of their own, each saved by diffusers."""
    root = tmp_path_factory.mktemp("parts")
    pipe: Any = tiny_sdxl()
    pipe.save_pretrained(root / "model")
    torch.manual_seed(2)
    tiny_vae_taesd().save_pretrained(root / "tiny")
    tiny_vae_kl().save_pretrained(root / "kl")
    control_for(pipe).save_pretrained(root / "canny")
    control_for(tiny_sd15()).save_pretrained(root / "other-canny")
    return root


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def load(folders: Path, **parts: str) -> Any:
    return load_pipeline(str(folders / "model"), dtype="float32", device="cpu", **parts)


def refused(folders: Path, **parts: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(folders, **parts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestVae:
    @pytest.mark.parametrize(("name", "kind"), [("tiny", AutoencoderTiny), ("kl", AutoencoderKL)])
    def test_takes_the_place_of_the_models_own(self, folders: Path, name: str, kind: type) -> None:
        pipe = load(folders, vae=str(folders / name))
        saved = kind.from_pretrained(folders / name)
        assert type(pipe.vae) is kind
        assert all(torch.equal(weight, pipe.vae.state_dict()[key]) for key, weight in saved.state_dict().items())
        assert pipe.vae_scale_factor == 8

    def test_the_models_own_is_not_read(self, folders: Path, tmp_path: Path) -> None:
        pipe: Any = tiny_sdxl()
        pipe.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        loaded: Any = load_pipeline(str(tmp_path / "model"), vae=str(folders / "tiny"), device="cpu")
        assert isinstance(loaded.vae, AutoencoderTiny)

    def test_with_random_weights(self, folders: Path) -> None:
        pipe: Any = load_pipeline(str(folders / "model"), weights="random", device="cpu", vae="tiny")
        assert sum(weight.numel() for weight in pipe.vae.parameters()) == 2_445_063

    def test_of_another_kind(self, folders: Path) -> None:
        assert "what can be used here is AutoencoderKL or AutoencoderTiny" in refused(
            folders, vae=str(folders / "canny")
        )

    def test_with_other_latents(self, folders: Path, tmp_path: Path) -> None:
        AutoencoderTiny(
            latent_channels=16, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
        ).save_pretrained(tmp_path)
        assert refused(folders, vae=str(tmp_path)) == "the VAE has latents of 16 channels, this UNet takes 4"

    def test_by_an_unknown_name(self, folders: Path) -> None:
        assert refused(folders, vae="fp16fix") == (
            "there is no VAE 'fp16fix': give tiny, fp16-fix (with this model), a folder or a hub id; "
            "did you mean 'fp16-fix'?"
        )

    def test_by_name_offline_and_not_cached(self, folders: Path, offline: Path) -> None:
        sentence = refused(folders, vae="tiny")
        assert "model madebyollin/taesdxl is not on this machine and the hub cannot be reached" in sentence
        assert sentence.endswith("run: sparsedit models pull taesd-xl")

    def test_by_name_from_the_cache(self, folders: Path, offline: Path) -> None:
        repository = offline / "models--madebyollin--taesdxl"
        AutoencoderTiny.from_pretrained(folders / "tiny").save_pretrained(repository / "snapshots" / ("1" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("1" * 40)
        assert isinstance(load(folders, vae="tiny").vae, AutoencoderTiny)

    def test_an_embedded_one_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        missing = Part(name="demo-tiny", title="A tiny autoencoder", licence="", embedded="nowhere")
        monkeypatch.setitem(PRESETS, "demo", replace(PRESETS["demo"], vaes={"tiny": missing}))
        with pytest.raises(ModelError, match=r"A tiny autoencoder is not part of this installation: .*nowhere does"):
            load_pipeline("demo", vae="tiny", device="cpu")


class TestControlNet:
    def test_is_loaded_beside_the_pipeline(self, folders: Path) -> None:
        loaded = load(folders, controlnet=str(folders / "canny"))
        assert isinstance(loaded, StableDiffusionXLControlNetPipeline)
        saved = ControlNetModel.from_pretrained(folders / "canny")
        assert isinstance(loaded.controlnet, ControlNetModel)
        state = loaded.controlnet.state_dict()
        assert all(torch.equal(weight, state[key]) for key, weight in saved.state_dict().items())
        assert not loaded.controlnet.training

    def test_takes_the_dtype_of_the_model(self, folders: Path) -> None:
        loaded = load_pipeline(
            str(folders / "model"), dtype="bfloat16", device="cpu", controlnet=str(folders / "canny")
        )
        assert {weight.dtype for weight in loaded.controlnet.parameters()} == {torch.bfloat16}

    def test_there_is_none_unless_asked_for(self, folders: Path) -> None:
        assert isinstance(load(folders), StableDiffusionXLPipeline)

    def test_made_for_another_model(self, folders: Path) -> None:
        assert "the ControlNet was made for another model: its cross_attention_dim is 32, this UNet's 64" in refused(
            folders, controlnet=str(folders / "other-canny")
        )

    def test_of_another_kind(self, folders: Path) -> None:
        assert "what can be used here is ControlNetModel" in refused(folders, controlnet=str(folders / "kl"))

    def test_by_an_unknown_name(self, folders: Path) -> None:
        assert "give canny-small, canny-mid, canny (with this model)" in refused(folders, controlnet="cany-small")
