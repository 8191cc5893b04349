"""Random models are the right size and shape, repeatable, and behave numerically."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sparsedit.errors import ModelError
from sparsedit.models.folder import read_json
from sparsedit.models.presets import PRESETS
from sparsedit.models.random import random_model, random_pipeline

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


@pytest.mark.parametrize(
    ("preset", "part", "expected"),
    [
        ("sdxl", "unet", 2_567_463_684),
        ("sdxl", "vae", 83_653_863),
        ("sdxl", "text_encoder", 123_060_480),
        ("sdxl", "text_encoder_2", 694_659_840),
        ("sdxl-turbo", "unet", 2_567_463_684),
        ("sdxl-refiner", "unet", 2_259_526_660),
        ("sdxl-refiner", "text_encoder_2", 694_659_840),
    ],
)
def test_full_size_parameter_counts(preset, part, expected):
    config = read_json(PRESETS[preset].config_folder / part / "config.json")
    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    model = random_model(classes[part], config, torch.bfloat16, device="meta")
    assert parameters(model) == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


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


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_random_pipeline(name):
    preset = PRESETS[name]
    pipe = random_pipeline(preset, torch.bfloat16, device="meta")
    assert type(pipe).__name__ == preset.pipeline
    length = pipe.text_encoder_2.config.max_position_embeddings
    ids = pipe.tokenizer_2("a red house", padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, length)
    assert ids.max() < pipe.text_encoder_2.config.vocab_size
    assert pipe.unet.config.in_channels == 4


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
