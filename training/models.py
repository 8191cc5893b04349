"""The demo model's parts: new ones with their first weights, or those of a diffusers folder, in fp32."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sparsedit.errors import InputError
from sparsedit.models.silence import silence
from training.settings import CAPTION_TOKENS, SCALING_FACTOR

_TEXT_WIDTH = 64
_TIME_WIDTH = 32


@dataclass
class Denoiser:
    """What is trained together: the UNet and both text encoders."""

    unet: Any  # a UNet2DConditionModel: diffusers' models are untyped
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection

    def parts(self) -> dict[str, nn.Module]:
        """The models by the names of their folders in a pipeline."""
        return {
            "unet": self.unet,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter that a picture depends on.

        SDXL reads the first text encoder before its last layer, which is left as it is.
        """
        last = self.text_encoder.config.num_hidden_layers - 1
        unread = (f"encoder.layers.{last}.", "final_layer_norm.")
        named = []
        for part, model in self.parts().items():
            for name, parameter in model.named_parameters():
                if part != "text_encoder" or not any(word in name for word in unread):
                    named.append((f"{part}.{name}", parameter))
        return named


def part_of(pipeline: Path, name: str) -> Path:
    """The folder of one model of a pipeline; InputError when it is not there."""
    if not (pipeline / name).is_dir():
        raise InputError(f"{pipeline} has no {name}: it is no pipeline's folder, or not that far yet.")
    return pipeline / name


def load_denoiser(folder: Path) -> Denoiser:
    """The UNet and text encoders of a pipeline's folder."""
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    with silence():
        return Denoiser(
            UNet2DConditionModel.from_pretrained(part_of(folder, "unet"), torch_dtype=torch.float32),
            CLIPTextModel.from_pretrained(part_of(folder, "text_encoder"), **options),
            CLIPTextModelWithProjection.from_pretrained(part_of(folder, "text_encoder_2"), **options),
        )


def denoiser_hash(folder: Path) -> str:
    """Twelve digits that change with the weights of the UNet and text encoders of a pipeline's folder."""
    digest = hashlib.sha256()
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for path in sorted(part_of(folder, part).glob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def new_denoiser(tokenizer: CLIPTokenizer, tokenizer_2: CLIPTokenizer) -> Denoiser:
    """A UNet and text encoders with first weights from torch's global seed."""
    text_encoder = CLIPTextModel(_text_config(tokenizer, "quick_gelu"))
    text_encoder_2 = CLIPTextModelWithProjection(_text_config(tokenizer_2, "gelu"))
    for model in (text_encoder, text_encoder_2):
        for name, parameter in model.named_parameters():
            if "token_embedding" in name:
                nn.init.normal_(parameter, 0, 0.4)
            elif "position_embedding" in name:
                nn.init.normal_(parameter, 0, 0.15)
            elif "text_projection" in name:
                nn.init.normal_(parameter, 0, _TEXT_WIDTH**-0.5)
    return Denoiser(_new_unet(), text_encoder, text_encoder_2)


def _text_config(tokenizer: CLIPTokenizer, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CAPTION_TOKENS,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _new_unet() -> Any:
    channels = (64, 96, 128)
    unet: Any = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=2,
        norm_num_groups=16,
        cross_attention_dim=2 * _TEXT_WIDTH,
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[width // 32 for width in channels],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * _TIME_WIDTH + _TEXT_WIDTH,
    )
    with torch.no_grad():
        # Every residual branch starts small and the output at zero: the first steps are stable at high rates.
        for name, parameter in unet.named_parameters():
            if name.endswith(("conv2.weight", "proj_out.weight")):
                parameter.mul_(0.1)
            elif name.endswith(("conv2.bias", "proj_out.bias")) or name.startswith("conv_out."):
                parameter.zero_()
    return unet


def new_autoencoder() -> Any:
    """An AutoencoderKL with first weights from torch's global seed; its latents are not normalised yet."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=256,
        scaling_factor=SCALING_FACTOR,
    )


def load_autoencoder(folder: Path) -> Any:
    """The autoencoder of a pipeline's folder."""
    with silence():
        return AutoencoderKL.from_pretrained(part_of(folder, "vae"), torch_dtype=torch.float32)


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Both tokenizers of a pipeline's folder; they differ in the token that fills a caption up."""
    return (
        CLIPTokenizer.from_pretrained(part_of(folder, "tokenizer")),
        CLIPTokenizer.from_pretrained(part_of(folder, "tokenizer_2")),
    )


def new_scheduler() -> EulerDiscreteScheduler:
    """The noise schedule: SDXL's, rescaled so that the last step is noise alone."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        steps_offset=1,
    )
