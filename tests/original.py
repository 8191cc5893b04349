"""The layout in which the authors of Stable Diffusion publish weights: one file, names of their own code.

Written from those names, not from diffusers' converter, so that reading such a file is held to something independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]

_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "time_emb_proj.": "emb_layers.1.",
    "conv_shortcut.": "skip_connection.",
}
_VAE_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
_OPEN_CLIP = {"layer_norm1.": "ln_1.", "layer_norm2.": "ln_2.", "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj.",
              "self_attn.out_proj.": "attn.out_proj."}  # fmt: skip


def original_layout(pipe: Any) -> Weights:
    """All weights of a Stable Diffusion pipeline under their original names, as one file holds them."""
    weights = _prefixed("model.diffusion_model.", _unet(pipe.unet)) | _prefixed("first_stage_model.", _vae(pipe.vae))
    second = getattr(pipe, "text_encoder_2", None)
    if second is None:
        is_clip = pipe.text_encoder.config.hidden_act == "quick_gelu"
        return weights | (
            _prefixed("cond_stage_model.transformer.text_model.", pipe.text_encoder.state_dict())
            if is_clip
            else _prefixed("cond_stage_model.model.", _open_clip(pipe.text_encoder))
        )
    if pipe.text_encoder is None:
        return weights | _prefixed("conditioner.embedders.0.model.", _open_clip(second))
    return (
        weights
        | _prefixed("conditioner.embedders.0.transformer.text_model.", pipe.text_encoder.state_dict())
        | _prefixed("conditioner.embedders.1.model.", _open_clip(second))
    )


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: weight.contiguous() for key, weight in weights.items()}


def _moved(model: nn.Module, places: Iterator[tuple[str, str, dict[str, str]]]) -> Weights:
    """The weights of `model`, for each (place here, place there, names within)."""
    state = model.state_dict()
    weights: Weights = {}
    for here, there, names in places:
        for key in [key for key in state if key.startswith(here)]:
            rest = key.removeprefix(here)
            for old, new in names.items():
                rest = new + rest.removeprefix(old) if rest.startswith(old) else rest
            weights[there + rest] = state.pop(key)
    assert not state, f"no original name for {sorted(state)[:3]}"
    return weights


def _unet(unet: Any) -> Weights:
    return _moved(unet, _unet_places(unet))


def _unet_places(unet: Any) -> Iterator[tuple[str, str, dict[str, str]]]:
    yield "time_embedding.linear_1.", "time_embed.0.", {}
    yield "time_embedding.linear_2.", "time_embed.2.", {}
    yield "add_embedding.linear_1.", "label_emb.0.0.", {}
    yield "add_embedding.linear_2.", "label_emb.0.2.", {}
    yield "conv_in.", "input_blocks.0.0.", {}
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            yield f"down_blocks.{level}.resnets.{layer}.", f"input_blocks.{number}.0.", _RESNET
            yield f"down_blocks.{level}.attentions.{layer}.", f"input_blocks.{number}.1.", {}
            number += 1
        if block.downsamplers is not None:
            yield f"down_blocks.{level}.downsamplers.0.conv.", f"input_blocks.{number}.0.op.", {}
            number += 1
    for place, name in enumerate(("resnets.0.", "attentions.0.", "resnets.1.")):
        yield f"mid_block.{name}", f"middle_block.{place}.", _RESNET if "resnet" in name else {}
    number = 0
    for level, block in enumerate(unet.up_blocks):
        attends = hasattr(block, "attentions")
        for layer in range(len(block.resnets)):
            yield f"up_blocks.{level}.resnets.{layer}.", f"output_blocks.{number}.0.", _RESNET
            yield f"up_blocks.{level}.attentions.{layer}.", f"output_blocks.{number}.1.", {}
            number += 1
        yield f"up_blocks.{level}.upsamplers.0.conv.", f"output_blocks.{number - 1}.{1 + attends}.conv.", {}
    yield "conv_norm_out.", "out.0.", {}
    yield "conv_out.", "out.2.", {}


def _vae(vae: Any) -> Weights:
    weights = _moved(vae, _vae_places(vae))
    attention = [f"mid.attn_1.{name}.weight" for name in ("q", "k", "v", "proj_out")]
    return {
        key: weight[:, :, None, None] if any(key.endswith(end) for end in attention) else weight
        for key, weight in weights.items()
    }


def _vae_places(vae: Any) -> Iterator[tuple[str, str, dict[str, str]]]:
    yield "quant_conv.", "quant_conv.", {}
    yield "post_quant_conv.", "post_quant_conv.", {}
    shortcut = {"conv_shortcut.": "nin_shortcut."}
    for half, blocks in (("encoder", vae.encoder.down_blocks), ("decoder", vae.decoder.up_blocks)):
        way, levels = ("down", range(len(blocks))) if half == "encoder" else ("up", range(len(blocks))[::-1])
        for name in ("conv_in", "conv_out"):
            yield f"{half}.{name}.", f"{half}.{name}.", {}
        yield f"{half}.conv_norm_out.", f"{half}.norm_out.", {}
        for layer in (0, 1):
            yield f"{half}.mid_block.resnets.{layer}.", f"{half}.mid.block_{layer + 1}.", shortcut
        yield f"{half}.mid_block.attentions.0.", f"{half}.mid.attn_1.", _VAE_ATTENTION
        for number, level in enumerate(levels):
            here, there = f"{half}.{way}_blocks.{number}.", f"{half}.{way}.{level}."
            for layer in range(len(blocks[number].resnets)):
                yield f"{here}resnets.{layer}.", f"{there}block.{layer}.", shortcut
            yield f"{here}{way}samplers.0.conv.", f"{there}{way}sample.conv.", {}


def _open_clip(encoder: Any) -> Weights:
    state = {key.removeprefix("text_model."): weight for key, weight in encoder.state_dict().items()}
    weights: Weights = {
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
    }
    if "text_projection.weight" in state:
        weights["text_projection"] = state.pop("text_projection.weight").T
    for layer in range(encoder.config.num_hidden_layers):
        here, there = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            projections = [state.pop(f"{here}self_attn.{name}_proj.{kind}") for name in "qkv"]
            weights[f"{there}attn.in_proj_{kind}"] = torch.cat(projections)
            for old, new in _OPEN_CLIP.items():
                weights[there + new + kind] = state.pop(here + old + kind)
    assert not state.keys() - {"embeddings.position_ids"}, f"no original name for {sorted(state)[:3]}"
    return weights
