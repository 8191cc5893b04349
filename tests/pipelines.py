"""Tiny diffusers pipelines with seeded random weights, in the layouts users load."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DEISMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sparsedit.errors import ModelError
from sparsedit.models.loading import with_controlnet
from sparsedit.models.presets import PRESETS, Preset, get_preset


def _is_installed(preset: Preset) -> bool:
    try:
        preset.check_installed()
    except ModelError:
        return False
    return True


INSTALLED = [name for name, preset in PRESETS.items() if _is_installed(preset)]
"""Presets that are whole: an embedded model's companions may be left out of an installation."""

EULER = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
DDIM = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
DEIS = DEISMultistepScheduler(beta_schedule="scaled_linear")
ANCESTRAL = EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")

SDXL_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "norm_num_groups": 8,
    "cross_attention_dim": 64,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
SD_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
    "cross_attention_dim": 32,
}


def tiny_sdxl(
    scheduler: object = EULER, in_channels: int = 4, tiny_vae: bool = False, wide: bool = False
) -> StableDiffusionXLPipeline:
    """SDXL's layout; `wide` makes the second text encoder wider than the first, as SDXL's is."""
    torch.manual_seed(0)
    width = 48 if wide else 32
    config = {"cross_attention_dim": 32 + width, "projection_class_embeddings_input_dim": width + 6 * 8}
    unet = UNet2DConditionModel(**SDXL_UNET | {"in_channels": in_channels} | config)
    return _sdxl(unet, tiny_vae_taesd() if tiny_vae else tiny_vae_kl(), scheduler, width)


def tiny_ssd() -> StableDiffusionXLPipeline:
    """SSD-1B's layout: transformers of different depths down and up, and a middle without one."""
    torch.manual_seed(0)
    depths = {
        "layers_per_block": 2,
        "transformer_layers_per_block": [0, [1, 2]],
        "reverse_transformer_layers_per_block": [[1, 2, 1], 0],
        "mid_block_type": "UNetMidBlock2D",
    }
    return _sdxl(UNet2DConditionModel(**SDXL_UNET | depths), tiny_vae_kl(), EULER)


def tiny_refiner() -> StableDiffusionXLImg2ImgPipeline:
    """The refiner's layout: one text encoder, and an aesthetic score where SDXL is told the size it is to paint."""
    torch.manual_seed(0)
    config = {"cross_attention_dim": 32, "projection_class_embeddings_input_dim": 32 + 5 * 8}
    return StableDiffusionXLImg2ImgPipeline(
        vae=tiny_vae_kl(),
        text_encoder=None,
        text_encoder_2=CLIPTextModelWithProjection(text_config(act="gelu")),
        tokenizer=None,
        tokenizer_2=tokenizer("tokenizer_2"),
        unet=UNet2DConditionModel(**SDXL_UNET | config),
        scheduler=EULER,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def tiny_sd15(in_channels: int = 4, scheduler: object = DDIM, tiny_vae: bool = False) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SD_UNET | {"in_channels": in_channels})
    return _sd(unet, tiny_vae_taesd() if tiny_vae else tiny_vae_kl(), scheduler)


def tiny_sd21() -> StableDiffusionPipeline:
    """Stable Diffusion 2.1's layout: linear projections, heads by their number, a prediction of v."""
    torch.manual_seed(0)
    config = {"use_linear_projection": True, "attention_head_dim": (2, 4), "upcast_attention": True}
    scheduler = DDIMScheduler.from_config(DDIM.config, prediction_type="v_prediction")
    return _sd(UNet2DConditionModel(**SD_UNET | config), tiny_vae_kl(), scheduler, act="gelu")


def controlled(pipe: Any) -> Any:
    """The pipeline with a ControlNet, whose residuals are as large as a trained one's."""
    torch.manual_seed(1)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8, 12, 16))
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    controlled = with_controlnet(pipe, net.eval())
    controlled.set_progress_bar_config(disable=True)
    return controlled


def tiny_sdxs() -> StableDiffusionPipeline:
    """SDXS's layout: no middle, no attention at full size, a tiny autoencoder, one step."""
    torch.manual_seed(0)
    config = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": None,
    }
    return _sd(UNet2DConditionModel(**SD_UNET | config), tiny_vae_taesd(), DEIS)


def _sdxl(unet: UNet2DConditionModel, vae: nn.Module, scheduler: object, width: int = 32) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config(width, "gelu")),
        tokenizer=tokenizer("tokenizer"),
        tokenizer_2=tokenizer("tokenizer_2"),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def _sd(
    unet: UNet2DConditionModel, vae: nn.Module, scheduler: object, act: str = "quick_gelu"
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text_config(act=act)),
        tokenizer=tokenizer("tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_vae_taesd() -> AutoencoderTiny:
    vae = AutoencoderTiny(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8))
    # Random weights alone would paint black, in which every picture is like any other.
    vae.decoder.layers[-1].bias.data.fill_(0.5)
    return vae


def tiny_vae_kl() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
    )


def text_config(width: int = 32, act: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=2000,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act=act,
    )


def tokenizer(name: str) -> CLIPTokenizer:
    folder = get_preset("demo").embedded_folder
    assert folder is not None
    return CLIPTokenizer.from_pretrained(folder / name)
