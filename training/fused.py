"""Faster training of small networks on a CPU: group norm and SiLU as one function with a backward of its own.

In bf16 and channels-last, torch's own backward of group norm costs more than the convolution behind it. Here the
sums over pixels are batched matrix products and the rest is point-wise; values agree to bf16's precision. It is
for training alone: parameters and their names stay as they are, so a model is saved as if nothing had happened.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F

# Up to this many pixels per map torch's forward of group norm is the slower one.
_SMALL_MAP = 256


def fuse(model: Any) -> None:
    """Make a diffusers UNet or autoencoder train faster, in place; its `state_dict` does not change.

    The model is put into eval mode: diffusers' residual blocks leave the channels-last layout in train mode,
    and there is nothing else in these models that the mode changes.
    """
    for module in list(model.modules()):
        if isinstance(module, ResnetBlock2D):
            _activate(module.norm1)
            _activate(module.norm2)
            module.nonlinearity = _VectorSilu()
        elif isinstance(norm := getattr(module, "conv_norm_out", None), nn.GroupNorm):
            _activate(norm)
            module.conv_act = _VectorSilu()
    for module in model.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = FusedNorm
    # Plain products and softmax: the backward of fused attention is slow on a CPU.
    model.set_attn_processor(AttnProcessor())
    model.eval().to(memory_format=torch.channels_last)


class FusedNorm(nn.GroupNorm):
    """Group norm of [N, C, H, W] or [N, C, P]."""

    activation = False

    def forward(self, input: Tensor) -> Tensor:
        maps = input if input.ndim == 4 else input.unsqueeze(-1)
        result = _GroupNorm.apply(maps, self.weight, self.bias, self.num_groups, self.eps, self.activation)
        return result.view(input.shape) if input.ndim == 4 else result.squeeze(-1)


class FusedNormSilu(FusedNorm):
    """Group norm, then SiLU."""

    activation = True


class _VectorSilu(nn.Module):
    """SiLU of embeddings [N, C]; maps pass, as the norm before them has activated them."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input) if input.ndim == 2 else input


def _activate(norm: nn.Module) -> None:
    if type(norm) is not nn.GroupNorm:
        raise TypeError(f"Only a plain GroupNorm can be fused with SiLU, not {type(norm).__name__}.")
    norm.__class__ = FusedNormSilu


class _GroupNorm(torch.autograd.Function):
    """Group norm of maps [N, C, H, W] with or without SiLU, in autocast's dtype."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activation: bool
    ) -> Tensor:
        device = maps.device.type
        if torch.is_autocast_enabled(device):
            maps = maps.to(torch.get_autocast_dtype(device))
        maps = maps.contiguous(memory_format=torch.channels_last)
        rows = maps.permute(0, 2, 3, 1).flatten(1, 2)
        if rows.shape[1] <= _SMALL_MAP:
            normed, mean, inverse = _normalise_rows(rows, weight, bias, groups, eps)
        else:
            count, channels, height, width = maps.shape
            normed, mean, inverse = torch.native_group_norm(
                maps, weight.to(maps.dtype), bias.to(maps.dtype), count, channels, height * width, groups, eps
            )
            normed = normed.permute(0, 2, 3, 1).flatten(1, 2)
            mean, inverse = mean.float().unsqueeze(1), inverse.float().unsqueeze(1)
        ctx.save_for_backward(rows, normed, weight, mean, inverse)
        ctx.activation = activation
        return _as_maps(F.silu(normed) if activation else normed, maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, normed, weight, mean, inverse = ctx.saved_tensors
        given = gradients[0].to(rows.dtype).permute(0, 2, 3, 1).flatten(1, 2)
        if ctx.activation:
            given = torch.ops.aten.silu_backward(given, normed)
        channels, groups = rows.shape[-1], mean.shape[-1]
        count = rows.shape[1] * channels // groups
        mean, inverse = _per_channel(mean, channels), _per_channel(inverse, channels)
        of_bias = _sums(given)
        of_weight = (_sums(given * rows) - mean * of_bias) * inverse
        # d rows = inverse * (weight * given - mean of it - normalised rows * mean of its product with them)
        along = _per_channel(_per_group(of_weight * weight, groups), channels) / count
        level = _per_channel(_per_group(of_bias * weight, groups), channels) / count
        slope = -inverse * inverse * along
        offset = -inverse * level - slope * mean
        result = torch.addcmul(offset.to(rows.dtype), rows, slope.to(rows.dtype))
        result.addcmul_(given, (inverse * weight).to(rows.dtype))
        return _as_maps(result, gradients[0]), of_weight.sum((0, 1)), of_bias.sum((0, 1)), None, None, None


def _normalise_rows(
    rows: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm of rows [N, P, C], and their mean and 1 / deviation [N, 1, groups] in fp32."""
    channels = rows.shape[-1]
    count = rows.shape[1] * channels // groups
    mean = _per_group(_sums(rows), groups) / count
    square = _per_group(_sums(rows * rows), groups) / count
    inverse = ((square - mean * mean).clamp(min=0) + eps).rsqrt()
    scale = _per_channel(inverse, channels) * weight
    shift = bias - _per_channel(mean, channels) * scale
    return torch.addcmul(shift.to(rows.dtype), rows, scale.to(rows.dtype)), mean, inverse


def _sums(rows: Tensor) -> Tensor:
    """Sums [N, 1, C] in fp32 over the pixels of rows [N, P, C]."""
    return torch.bmm(rows.new_ones(1, 1, 1).expand(len(rows), 1, rows.shape[1]), rows).float()


def _per_channel(values: Tensor, channels: int) -> Tensor:
    """Values [N, 1, groups] as [N, 1, channels]."""
    return values.repeat_interleave(channels // values.shape[-1], -1)


def _per_group(values: Tensor, groups: int) -> Tensor:
    """Values [N, 1, channels] added up to [N, 1, groups]."""
    return values.unflatten(-1, (groups, -1)).sum(-1)


def _as_maps(rows: Tensor, like: Tensor) -> Tensor:
    """Rows [N, H*W, C] as channels-last maps [N, C, H, W]."""
    return rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
