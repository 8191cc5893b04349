"""Random models are the right size and shape, repeatable, and behave numerically."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from sparsedit.errors import ModelError
from sparsedit.models.folder import read_json
from sparsedit.models.presets import PRESETS
from sparsedit.models.presets.preset import PACKAGE
from sparsedit.models.random import random_model, random_pipeline
from sparsedit.models.tokenizer import clip_tokenizer
from tests.pipelines import INSTALLED

TINY_UNET = {
    **read_json(PRESETS["sdxl"].config_folder / "unet" / "config.json"),
    "block_out_channels": [32, 64, 64],
    "attention_head_dim": [2, 4, 4],
    "transformer_layers_per_block": [1, 1, 2],
    "cross_attention_dim": 24,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}
TINY_VAE = {
    **read_json(PRESETS["sdxl"].config_folder / "vae" / "config.json"),
    "block_out_channels": [32, 32, 64, 64],
}
TINY_TEXT = {
    **read_json(PRESETS["sdxl"].config_folder / "text_encoder" / "config.json"),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 50,
}


@pytest.fixture(scope="module")
def unet():
    return random_model(UNet2DConditionModel, TINY_UNET)


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@functools.cache
def full_size(folder: Path) -> torch.nn.Module:
    """The model of a configuration folder on the meta device: shapes, no numbers."""
    config = read_json(folder / "config.json")
    name = config.get("_class_name") or config["architectures"][0]
    cls = getattr(diffusers, name, None) or getattr(transformers, name)
    return random_model(cls, config, torch.bfloat16, device="meta")


# diffusers' own count of the published weights; the sum of parts that make up one published file is checked below.
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("sdxl/unet", 2_567_463_684),
        ("sdxl/vae", 83_653_863),
        ("sdxl/text_encoder", 123_060_480),
        ("sdxl/text_encoder_2", 694_659_840),
        ("sdxl-turbo/unet", 2_567_463_684),
        ("sdxl-refiner/unet", 2_259_526_660),
        ("sdxl-refiner/text_encoder_2", 694_659_840),
        ("sdxl-inpaint/unet", 2_567_478_084),
        # 1.33 B by its paper (arXiv 2401.02677, table 1); depths of the transformers as ComfyUI detects them.
        ("ssd-1b/unet", 1_331_334_404),
        ("sd15/unet", 859_520_964),
        ("sd15/vae", 83_653_863),
        ("sd15/text_encoder", 123_060_480),
        ("sd21/unet", 865_910_724),
        ("sd21/text_encoder", 340_387_840),
        # 0.32 B by its paper (arXiv 2403.16627).
        ("sdxs-512/unet", 315_746_244),
        # 114 M by the DDPM paper (arXiv 2006.11239, appendix B).
        ("ddim-church/unet", 113_673_219),
        # 1.2 M each for encoder and decoder by its author.
        ("parts/taesd", 2_445_063),
        ("parts/taesd-xl", 2_445_063),
        ("parts/sdxl-vae-fp16-fix", 83_653_863),
        ("parts/canny-sdxl", 1_251_014_160),
        # Files of 545 and 320 MB in float16: "5x" and "7x smaller" by their model cards.
        ("parts/canny-sdxl-mid", 272_586_000),
        ("parts/canny-sdxl-small", 160_111_120),
    ],
)
def test_full_size_parameter_counts(folder, expected):
    model = full_size(PACKAGE / "configs" / folder)
    assert parameters(model) == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


# Sizes of files on the hub at the presets' revisions. What a file has beyond its weights is its header.
@pytest.mark.parametrize(
    ("folder", "parts", "width", "published"),
    [
        ("sdxl", ("unet", "vae", "text_encoder", "text_encoder_2"), 2, 6_938_078_334),  # sd_xl_base_1.0.safetensors
        ("sdxl-turbo", ("unet", "vae", "text_encoder", "text_encoder_2"), 2, 6_938_081_905),  # sd_xl_turbo_1.0_fp16
        ("sdxl-refiner", ("unet", "vae", "text_encoder_2"), 2, 6_075_981_930),  # sd_xl_refiner_1.0.safetensors
        ("sd15", ("unet", "vae", "text_encoder"), 4, 4_265_146_304),  # v1-5-pruned-emaonly.safetensors
        ("parts/canny-sdxl", ("",), 2, 2_502_139_104),  # diffusion_pytorch_model.fp16.safetensors
        ("parts/sdxl-vae-fp16-fix", ("",), 4, 334_643_238),  # diffusion_pytorch_model.safetensors
    ],
)
def test_architectures_fill_the_published_files(folder, parts, width, published):
    weights = width * sum(parameters(full_size(PACKAGE / "configs" / folder / part)) for part in parts)
    assert 0 < published - weights < 1e-4 * published


def test_same_seed_same_weights(unet):
    again = random_model(UNet2DConditionModel, TINY_UNET)
    other = random_model(UNet2DConditionModel, TINY_UNET, seed=1)
    for name, weight in unet.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(unet.conv_in.weight, other.conv_in.weight)


def test_weights_scale_with_fan_in_and_norms_are_the_identity(unet):
    for name, parameter in unet.named_parameters():
        weight = parameter.detach()
        if weight.dim() < 2:
            assert weight.eq(0.0 if name.endswith("bias") else 1.0).all(), name
        elif weight.numel() > 2000:
            fan_in = weight.shape[1:].numel()
            assert weight.std().item() * math.sqrt(fan_in) == pytest.approx(1, rel=0.1), name
            assert abs(weight.mean().item()) * math.sqrt(fan_in) < 0.1, name


def test_no_two_filters_are_equal_when_the_numbers_repeat(monkeypatch):
    monkeypatch.setattr("sparsedit.models.random._BLOCK", 1009)
    weight = random_model(UNet2DConditionModel, TINY_UNET).mid_block.resnets[0].conv1.weight
    assert weight.flatten(1).unique(dim=0).shape[0] == weight.shape[0]


def test_layers_differ(unet):
    first, second = (resnet.conv2.weight for resnet in unet.mid_block.resnets)
    assert not torch.equal(first, second)


def test_kernels_are_rows_in_memory(unet):
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d):
            rows = module.weight.permute(0, 2, 3, 1)
            assert rows.is_contiguous()
            assert rows.flatten(1).data_ptr() == module.weight.data_ptr()


def test_buffers_keep_their_values():
    model = random_model(CLIPTextModel, TINY_TEXT, torch.bfloat16)
    buffers = dict(model.named_buffers())
    positions = next(value for name, value in buffers.items() if name.endswith("position_ids"))
    assert positions.tolist() == [list(range(77))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_finite_and_not_constant(dtype):
    unet = random_model(UNet2DConditionModel, TINY_UNET, dtype)
    added = {"text_embeds": torch.randn(2, 16, dtype=dtype), "time_ids": torch.full((2, 6), 512, dtype=dtype)}
    x, text = torch.randn(2, 4, 16, 24, dtype=dtype), torch.randn(2, 77, 24, dtype=dtype)
    vae = random_model(AutoencoderKL, TINY_VAE, dtype)
    encoder = random_model(CLIPTextModel, TINY_TEXT, dtype)
    with torch.no_grad():
        outputs = [
            unet(x, torch.tensor(500), text, added_cond_kwargs=added).sample,
            vae.decode(x[:1]).sample,
            vae.encode(torch.rand(1, 3, 32, 48, dtype=dtype)).latent_dist.mean,
            encoder(torch.arange(20)[None]).last_hidden_state,
        ]
    for output in outputs:
        assert output.dtype == dtype
        assert output.isfinite().all()
        assert 0.01 < output.float().std() < 100


def test_models_are_ready_for_inference(unet):
    assert not any(module.training for module in unet.modules())


def test_other_classes_are_refused():
    with pytest.raises(ModelError, match="not for Linear"):
        random_model(torch.nn.Linear, {"in_features": 1, "out_features": 1})


@pytest.mark.parametrize("name", INSTALLED)
def test_every_preset_has_a_random_pipeline(name):
    preset = PRESETS[name]
    pipe = random_pipeline(preset, torch.bfloat16, device="meta")
    assert type(pipe).__name__ == preset.pipeline
    for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if getattr(pipe, encoder, None) is not None:
            config = getattr(pipe, encoder).config
            ids = getattr(pipe, tokenizer)("a red house", padding="max_length", return_tensors="pt").input_ids
            assert ids.shape == (1, config.max_position_embeddings)
            assert ids.max() < config.vocab_size


def test_prompts_are_split_as_clip_does():
    tokenizer = clip_tokenizer(PACKAGE / "configs/sdxl/tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize(
    ("folder", "padding"),
    [("sdxl/tokenizer", 49407), ("sdxl/tokenizer_2", 0), ("sd15/tokenizer", 49407), ("sd21/tokenizer", 0)],
)
def test_prompts_are_padded_as_the_model_was_trained(folder, padding):
    ids = clip_tokenizer(PACKAGE / "configs" / folder)("a cat", padding="max_length").input_ids
    assert (len(ids), ids[4:]) == (77, [padding] * 73)


def test_a_preset_that_is_not_installed_is_refused():
    partial = replace(PRESETS["demo"], overlay="nowhere")
    with pytest.raises(ModelError, match=r"model demo is not part of this installation: .*nowhere does not exist"):
        random_pipeline(partial)


def test_parts_of_one_pipeline_differ():
    pipe = random_pipeline(PRESETS["demo"])
    first, second = (encoder.get_input_embeddings().weight for encoder in (pipe.text_encoder, pipe.text_encoder_2))
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_a_random_pipeline_paints_something():
    pipe = random_pipeline(PRESETS["demo"], torch.float32)
    generator = torch.Generator().manual_seed(0)
    picture = pipe("a lake", height=64, width=64, num_inference_steps=2, generator=generator, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64)
    assert picture.isfinite().all()
