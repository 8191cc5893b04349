"""One tiny seeded model of every family the engine promises to run, with inputs for any batch and size.

A model is built as its full-size sister is (blocks, levels, projections, paddings), only narrower. Layers that start
as zeros or ones are given other values: an output that is constant, or does not see a layer, would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

Size = tuple[int, int]
Inputs = dict[str, Any]

TEXT = 24
POOLED = 16
TIME_IDS = 8


@dataclass(frozen=True)
class Family:
    """A model and what to call it with: `inputs(batch, size, seed)` are keyword arguments of its forward.

    `sizes` are [H, W] of the first input, ordered even, odd, small. Nothing of UNet2DModel fits an odd size (its
    blocks pass no output size), so its "odd" sizes are odd in a lower level.
    """

    model: Callable[[], nn.Module]
    inputs: Callable[[int, Size, int], Inputs]
    sizes: tuple[Size, Size, Size] = ((16, 24), (37, 53), (5, 7))

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.model().eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        for module in model.modules():
            if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                module.weight.data = 1 + 0.3 * torch.randn(module.weight.shape, generator=generator)
                module.bias.data = 0.3 * torch.randn(module.bias.shape, generator=generator)
            elif isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
                fan_in = module.weight[0].numel()
                module.weight.data = torch.randn(module.weight.shape, generator=generator) * fan_in**-0.5
        return model


class Pyramidal(nn.Module):
    """No diffusers at all: wide, dilated and strided kernels, a 1x1 with a stride, and nearest up-sampling."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 5, padding=2)
        self.norm = nn.GroupNorm(4, 8) if norm else nn.Identity()
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.up = nn.Upsample(scale_factor=2)
        self.oblong = nn.Conv2d(8, 8, (1, 3), padding=(0, 1), bias=False)
        self.down = nn.Conv2d(8, 8, 5, stride=2, padding=2)
        self.deep = nn.Conv2d(8, 8, 5, stride=2, padding=2)
        self.skip = nn.Conv2d(8, 8, 1, stride=2)
        self.out = nn.Conv2d(8, 3, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.norm(self.wide(picture)))
        x = x + self.dilated(x)
        x = x + self.down(self.act(self.oblong(self.up(x))))
        return self.out(x), self.deep(self.act(x)) + self.skip(x)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def halved(size: Size, times: int) -> Size:
    return (-(-size[0] // 2**times), -(-size[1] // 2**times))


def unet(**config: Any) -> UNet2DConditionModel:
    defaults: dict[str, Any] = {
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "cross_attention_dim": TEXT,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**defaults | config)


def text_time(ids: int) -> dict[str, Any]:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_IDS,
        "projection_class_embeddings_input_dim": ids * TIME_IDS + POOLED,
        "use_linear_projection": True,
    }


SDXL = {
    "block_out_channels": (16, 24, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 2, 4),
    **text_time(6),
}
REFINER = {
    "block_out_channels": (16, 24, 32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2,
    "attention_head_dim": (1, 2, 4, 4),
    **text_time(5),
}
SD15 = {
    "block_out_channels": (16, 24, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
SSD = SDXL | {
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, [1, 2], 1],
    "reverse_transformer_layers_per_block": [[1, 2, 1], 1, 1],
}
SDXS = {
    "block_out_channels": (16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": None,
}


def unet_inputs(batch: int, size: Size, seed: int, channels: int = 4, ids: int = 0) -> Inputs:
    inputs: Inputs = {
        "sample": noise(batch, channels, *size, seed=seed),
        "timestep": torch.tensor(801),
        "encoder_hidden_states": noise(batch, 7, TEXT, seed=100),
    }
    if ids:
        inputs["added_cond_kwargs"] = {
            "text_embeds": noise(batch, POOLED, seed=101),
            "time_ids": torch.arange(batch * ids).reshape(batch, ids).float(),
        }
    return inputs


def ddim_inputs(batch: int, size: Size, seed: int) -> Inputs:
    return {"sample": noise(batch, 3, *size, seed=seed), "timestep": 801}


def control_inputs(batch: int, size: Size, seed: int) -> Inputs:
    condition = noise(batch, 3, 8 * size[0], 8 * size[1], seed=seed + 1)
    return unet_inputs(batch, size, seed) | {"controlnet_cond": condition, "conditioning_scale": 0.7}


def residual_inputs(batch: int, size: Size, seed: int) -> Inputs:
    """What a ControlNet beside the SD15 layout of three levels hands to the UNet."""
    skips = [(16, 0), (16, 0), (16, 1), (24, 1), (24, 2), (32, 2)]
    down = tuple(
        noise(batch, channels, *halved(size, level), seed=seed + number)
        for number, (channels, level) in enumerate(skips, 1)
    )
    mid = noise(batch, 32, *halved(size, 2), seed=seed + 9)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    return unet_inputs(batch, size, seed) | residuals


def picture_inputs(batch: int, size: Size, seed: int, name: str, channels: int) -> Inputs:
    return {name: noise(batch, channels, *size, seed=seed)}


def ddim() -> nn.Module:
    return UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 24, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def control() -> nn.Module:
    return ControlNetModel(
        block_out_channels=(16, 24, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT,
        attention_head_dim=2,
        conditioning_embedding_out_channels=(4, 8, 8, 12),
    )


def kl(levels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=2,
    )


def taesd() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 2, 1),
        num_decoder_blocks=(2, 1, 1),
    )


FLOORED: tuple[Size, Size, Size] = ((16, 24), (37, 53), (11, 9))
HALVES: tuple[Size, Size, Size] = ((16, 24), (20, 28), (8, 4))
FAMILIES: dict[str, Family] = {
    "sdxl": Family(partial(unet, **SDXL), partial(unet_inputs, ids=6)),
    "refiner": Family(partial(unet, **REFINER), partial(unet_inputs, ids=5)),
    "sd15": Family(partial(unet, **SD15), unet_inputs),
    "sd21": Family(partial(unet, **SD15, use_linear_projection=True, upcast_attention=True), unet_inputs),
    "inpaint9": Family(partial(unet, **SD15, in_channels=9), partial(unet_inputs, channels=9)),
    "ssd1b": Family(partial(unet, **SSD, mid_block_type="UNetMidBlock2D"), partial(unet_inputs, ids=6)),
    "ssd1b-no-mid": Family(partial(unet, **SSD, mid_block_type=None), partial(unet_inputs, ids=6)),
    "sdxs": Family(partial(unet, **SDXS), unet_inputs),
    "ddim": Family(ddim, ddim_inputs, HALVES),
    "controlnet": Family(control, control_inputs),
    "unet+controlnet": Family(partial(unet, **SD15), residual_inputs),
    "kl-encoder": Family(lambda: kl(3).encoder, partial(picture_inputs, name="sample", channels=3), FLOORED),
    "kl-decoder": Family(lambda: kl(2).decoder, partial(picture_inputs, name="sample", channels=4)),
    "tiny-encoder": Family(lambda: taesd().encoder, partial(picture_inputs, name="x", channels=3)),
    "tiny-decoder": Family(lambda: taesd().decoder, partial(picture_inputs, name="x", channels=4)),
    "custom": Family(Pyramidal, partial(picture_inputs, name="picture", channels=3)),
}
