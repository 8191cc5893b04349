"""What the engine cannot run on active sites is named, all of it, before anything runs and before a cache is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import FirUpsample2D, Upsample2D
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse import ActivationCache, SitePyramid, alongside, record, sparse
from sparsedit.sparse.survey import find_leaves
from tests.engine import edited, recorded, relative_error, whole
from tests.families import FAMILIES, noise

SIZE = (8, 8)


class Refused(nn.Module):
    """A model with one module of interest; running it is a failure of the test."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.odd = odd

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model ran")


class OwnForward(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(2))


class Standardised(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class WindowAttention(nn.Module):
    """Somebody's own attention: it has children, and none of them looks across pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)


class OwnProcessor(AttnProcessor2_0):
    pass


UNKNOWN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "average pooling": (lambda: nn.AvgPool2d(2), "odd (AvgPool2d)"),
    "max pooling": (lambda: nn.MaxPool2d(2), "odd (MaxPool2d)"),
    "global pooling": (lambda: nn.AdaptiveAvgPool2d(1), "odd (AdaptiveAvgPool2d)"),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 2, stride=2), "odd (ConvTranspose2d)"),
    "batch norm": (lambda: nn.BatchNorm2d(4), "odd (BatchNorm2d)"),
    "instance norm": (lambda: nn.InstanceNorm2d(4), "odd (InstanceNorm2d)"),
    "layer norm of maps": (lambda: nn.LayerNorm([4, 8, 8]), "odd (LayerNorm over more than the channels)"),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), "odd (PixelShuffle)"),
    "flatten": (lambda: nn.Flatten(), "odd (Flatten)"),
    "1-d convolution": (lambda: nn.Conv1d(4, 4, 3), "odd (Conv1d)"),
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), "odd (Upsample in mode bilinear)"),
    "nearest-exact": (lambda: nn.Upsample(scale_factor=2, mode="nearest-exact"), "in mode nearest-exact"),
    "three times": (lambda: nn.Upsample(scale_factor=3), "odd (Upsample by a factor of 3.0, which is no doubling)"),
    "uneven": (lambda: nn.Upsample(scale_factor=(2, 4)), "by a factor of (2.0, 4.0), which is no doubling"),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), "odd (Conv2d with 4 groups)"),
    "circular": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "in mode circular"),
    "same padding": (lambda: nn.Conv2d(4, 4, 3, padding="same"), "odd (Conv2d with padding 'same'"),
    "own forward": (lambda: OwnForward(4, 4, 3, padding=1), "odd (OwnForward with a forward of its own)"),
    "own kernel": (lambda: Standardised(4, 4, 3, padding=1), "odd (Standardised with a forward of its own)"),
    "down without conv": (lambda: Downsample2D(4), "odd (Downsample2D by average pooling)"),
    "up transposed": (lambda: Upsample2D(4, use_conv_transpose=True), "odd (Upsample2D that is not nearest"),
    "up not at all": (lambda: Upsample2D(4, use_conv=True, interpolate=False), "odd (Upsample2D that is not nearest"),
    "up with a norm": (
        lambda: Upsample2D(4, norm_type="rms_norm", eps=1e-5, elementwise_affine=True),
        "norm of its own",
    ),
    "fir": (lambda: FirUpsample2D(4, 4, use_conv=True), "odd (FirUpsample2D)"),
    "torch attention": (lambda: nn.MultiheadAttention(4, 1), "odd (MultiheadAttention)"),
    "own attention": (WindowAttention, "odd (WindowAttention)"),
    "spatial norm": (lambda: Attention(32, spatial_norm_dim=4), "odd (Attention with a spatial norm)"),
    "unscaled attention": (lambda: Attention(4, scale_qk=False), "odd (Attention with unscaled scores)"),
    "norm of queries": (lambda: Attention(4, qk_norm="layer_norm"), "with norms of its prompt, queries or keys"),
    "norm of the prompt": (
        lambda: Attention(4, cross_attention_dim=4, cross_attention_norm="layer_norm"),
        "with norms of its prompt, queries or keys",
    ),
    "own processor": (lambda: Attention(4, processor=OwnProcessor()), "odd (Attention with OwnProcessor)"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_module_is_named_before_anything_runs(kind: str) -> None:
    build, phrase = UNKNOWN[kind]
    refuses(Refused(build()), phrase)


def refuses(model: nn.Module, phrase: str) -> None:
    """Every context refuses the model with that phrase, and the cache handed to it is as it was."""
    memory, _ = recorded(nn.Conv2d(4, 4, 3), {"input": noise(1, 4, *SIZE, seed=1)})
    contexts: list[Any] = [
        record(model, memory),
        sparse(model, memory, whole(SIZE)),
        alongside(model, [whole(SIZE)]),
    ]
    for context in contexts:
        with pytest.raises(EngineError, match=re.escape(phrase)), context:
            raise AssertionError("the context was entered")
        assert len(memory) == 1
        assert not any("forward" in vars(module) for module in model.modules())


def test_all_unknown_modules_are_named_at_once_with_their_paths() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(2), nn.Sequential(nn.BatchNorm2d(4)))
    refuses(Refused(inner), "Refused has modules that the sparse engine cannot run on active sites alone: ")
    refuses(Refused(inner), ": odd.1 (AvgPool2d); odd.2.0 (BatchNorm2d)")


def test_free_u_is_refused_until_it_is_disabled() -> None:
    model: Any = FAMILIES["sd15"].build()
    model.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    refuses(model, "up_blocks.0 (UpBlock2D with FreeU, which filters whole maps; call disable_freeu())")
    model.disable_freeu()
    assert find_leaves(model)


def test_fused_projections_are_refused_until_they_are_undone() -> None:
    model: Any = FAMILIES["sd15"].build()
    model.fuse_qkv_projections()
    refuses(model, "attn1 (Attention with fused projections; call unfuse_qkv_projections())")
    model.unfuse_qkv_projections()
    assert find_leaves(model)


def test_a_controlnet_that_pools_its_conditions_is_refused() -> None:
    model: Any = FAMILIES["controlnet"].build()
    model.register_to_config(global_pool_conditions=True)
    refuses(model, "the model (ControlNetModel, whose conditions are pooled over the whole picture)")


def test_a_models_own_processor_is_refused_and_its_plain_ones_are_not() -> None:
    model: Any = FAMILIES["sd15"].build()
    model.set_attn_processor(OwnProcessor())
    refuses(model, "attn2 (Attention with OwnProcessor)")
    inputs = FAMILIES["sd15"].inputs(2, (9, 14), 5)
    for processor in (AttnProcessor(), AttnProcessor2_0(), SlicedAttnProcessor(1)):
        model.set_attn_processor(processor)
        with torch.no_grad():
            memory, dense = recorded(model, inputs)
            assert relative_error(edited(model, memory, whole((9, 14)), inputs), dense) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_convolution_norm_and_attention_of_a_family_has_its_leaf(name: str) -> None:
    model = FAMILIES[name].build()
    owners = {id(inner) for leaf in find_leaves(model) for inner in leaf.module.modules()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm | nn.Upsample):
            assert id(module) in owners
        if isinstance(module, Attention):
            assert {id(module.to_k), id(module.to_v)} <= owners


def test_wrong_arguments_reach_no_context() -> None:
    memory = ActivationCache()
    with pytest.raises(EngineError, match="AvgPool2d"), record(nn.AvgPool2d(2), memory):
        pass
    with pytest.raises(EngineError, match="must be a bool tensor"):
        SitePyramid.from_mask(torch.zeros(2, 2))
