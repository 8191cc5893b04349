"""Which modules of a model look across pixels, and whether the engine knows them all.

Every module without children is either point-wise, a leaf the engine has a thin version of, or a reason to refuse
the model: running an unknown one on a thin image would be silently wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from sparsedit.errors import EngineError
from sparsedit.sparse.attention import Attending
from sparsedit.sparse.leaves import (
    Convolution,
    Leaf,
    Linear,
    UpSampling,
)
from sparsedit.sparse.norm import GroupNormalisation

POINTWISE = (
    nn.Linear, nn.Identity, nn.Embedding, nn.Dropout, nn.Dropout2d, nn.SiLU, nn.GELU, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
    nn.Sigmoid, nn.Tanh, nn.Mish, nn.ELU, nn.Softplus, nn.Hardswish,
)  # fmt: skip
"""torch's modules that treat every pixel, or every token, alone."""

POINTWISE_NAMES = frozenset({"Timesteps", "GaussianFourierProjection", "RMSNorm", "FP32SiLU"})
"""diffusers' childless modules of the same kind, by class name."""

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)

PROCESSORS = frozenset({AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor})
"""diffusers' processors of plain attention; with the projections swapped they need no change."""

SPATIAL_NAMES = frozenset({"SpatialNorm", "AdaGroupNorm", "FirUpsample2D", "FirDownsample2D"})
"""diffusers' modules that have children and look across pixels in their own code, as other `*Attention*` do."""


def find_leaves(model: nn.Module, linears: bool = False) -> list[Leaf]:
    """Every leaf of `model` that needs a thin version, in order; with `linears` the linear layers as well.

    Raises EngineError naming all modules (path and class) that the engine cannot run on a thin image.
    """
    leaves: list[Leaf] = []
    unknown: list[str] = []
    owned: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in owned:
            continue
        reason = _refusal(module)
        if reason is not None:
            unknown.append(f"{name or 'the model'} ({type(module).__name__}{reason})")
            owned.update(module.modules())
            continue
        for leaf in _leaves_at(name, module):
            leaves.append(leaf)
            owned.add(leaf.module)
        if linears and type(module) is nn.Linear:
            leaves.append(Linear(name, module))
        if isinstance(module, (Upsample2D, Downsample2D)):
            owned.update(module.modules())
    if unknown:
        raise EngineError(
            f"{type(model).__name__} has modules that the sparse engine cannot run on active sites alone: "
            + "; ".join(unknown)
        )
    return leaves


def _leaves_at(name: str, module: nn.Module) -> Iterator[Leaf]:
    if isinstance(module, Upsample2D):
        yield UpSampling(name, module, _conv_of(module))
    elif isinstance(module, nn.Upsample):
        yield UpSampling(name, module, None)
    elif isinstance(module, Downsample2D):
        conv = _conv_of(module)
        if conv is not None:
            yield Convolution(name, module, conv, padding=(0, 1, 0, 1) if module.padding == 0 else None)
    elif isinstance(module, nn.Conv2d):
        yield Convolution(name, module, module)
    elif isinstance(module, nn.GroupNorm):
        yield GroupNormalisation(name, module)
    elif isinstance(module, Attention):
        attending = Attending(name, module)
        yield from (attending, attending.key, attending.value)


def _conv_of(module: Upsample2D | Downsample2D) -> nn.Conv2d | None:
    conv = getattr(module, "conv", None) or getattr(module, "Conv2d_0", None)
    return conv if isinstance(conv, nn.Conv2d) else None


def _refusal(module: nn.Module) -> str | None:
    """Why a module cannot run on a thin image ('' names the class alone), None when it can."""
    if isinstance(module, nn.Conv2d):
        return _refuse_conv(module)
    if isinstance(module, nn.Upsample):
        return _refuse_upsample(module)
    if isinstance(module, nn.LayerNorm):
        return None if len(module.normalized_shape) == 1 else " over more than the channels"
    if isinstance(module, Attention):
        return _refuse_attention(module)
    if isinstance(module, (Upsample2D, Downsample2D)):
        return _refuse_resampling(module)
    if isinstance(module, (*POINTWISE, nn.GroupNorm)) or type(module).__name__ in POINTWISE_NAMES:
        return None
    if getattr(getattr(module, "config", None), "global_pool_conditions", False):
        return ", whose conditions are pooled over the whole picture"
    if getattr(module, "s1", None) and getattr(module, "b1", None):
        return " with FreeU, which filters whole maps; call disable_freeu()"
    if isinstance(module, CONTAINERS):
        return None
    name = type(module).__name__
    if name in SPATIAL_NAMES or "Attention" in name or not any(True for _ in module.children()):
        return ""
    return None


def _refuse_upsample(module: nn.Upsample) -> str | None:
    if module.mode != "nearest":
        return f" in mode {module.mode}"
    factor = module.scale_factor
    factors = set(factor if isinstance(factor, tuple) else () if factor is None else (factor,))
    if len(factors) > 1 or any(f < 1 or not math.log2(f).is_integer() for f in factors):
        return f" by a factor of {factor}, which is no doubling"
    return None


def _refuse_conv(conv: nn.Conv2d) -> str | None:
    kind = type(conv)
    if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
        return " with a forward of its own"
    if conv.groups != 1:
        return f" with {conv.groups} groups"
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return f" with padding {conv.padding!r} in mode {conv.padding_mode}"
    return None


def _refuse_attention(attention: Attention) -> str | None:
    if isinstance(attention.processor, FusedAttnProcessor2_0):
        return " with fused projections; call unfuse_qkv_projections()"
    if getattr(attention, "spatial_norm", None) is not None:
        return " with a spatial norm"
    if any(getattr(attention, norm, None) is not None for norm in ("norm_cross", "norm_q", "norm_k")):
        return " with norms of its prompt, queries or keys"
    if not attention.scale_qk:
        return " with unscaled scores"
    if type(attention.processor) not in PROCESSORS:
        return f" with {type(attention.processor).__name__}"
    return None


def _refuse_resampling(module: Upsample2D | Downsample2D) -> str | None:
    if getattr(module, "norm", None) is not None:
        return " with a norm of its own"
    if isinstance(module, Downsample2D) and not module.use_conv:
        return " by average pooling"
    if isinstance(module, Upsample2D) and (module.use_conv_transpose or not module.interpolate):
        return " that is not nearest up-sampling"
    conv = _conv_of(module)
    if module.use_conv and conv is None:
        return " whose convolution is wrapped (a LoRA on it can be merged with fuse_lora())"
    return None if conv is None else _refuse_conv(conv)
