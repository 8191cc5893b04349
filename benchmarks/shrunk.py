"""A published model's layout with narrow layers: its own configuration files, so that the real loading code reads it.

Blocks, levels, depths (to two), projections and schedulers stay; widths go. Weights are random.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsedit.models.presets import Preset
from sparsedit.models.random import random_pipeline

WIDTH = 32
TEXT_WIDTHS = {"text_encoder": 32, "text_encoder_2": 48}  # diffusers tells SDXL's two apart by their widths


def save_shrunk(preset: Preset, folder: Path) -> Path:
    """A narrow copy of the preset's model, saved as diffusers saves one, in `folder / "model"`."""
    configs = folder / "configs"
    for source in reversed(preset.folders):
        shutil.copytree(source, configs, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    index = json.loads((configs / "model_index.json").read_text())
    texts = {name: width for name, width in TEXT_WIDTHS.items() if (index.get(name) or [None])[0]}
    ids = 5 if index.get("requires_aesthetics_score") else 6  # numbers beside the prompt: sizes, crops or a score
    for name, width in texts.items():
        _rewrite(configs / name / "config.json", partial(_text, width=width))
    _rewrite(configs / "unet" / "config.json", partial(_unet, text=sum(texts.values()), ids=ids))
    if (configs / "vae").is_dir():
        _rewrite(configs / "vae" / "config.json", _vae)
    if preset.scheduler_folder is not None:
        shutil.copytree(preset.scheduler_folder, configs / "scheduler", dirs_exist_ok=True)
    pipe: Any = random_pipeline(configs)
    _bias(getattr(pipe, "vae", pipe.unet))
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def _bias(model: nn.Module) -> None:
    """Give a model biases, as a trained one has. Without any, a blank picture (a photo that is all hole) stays zero in
    every layer, and each norm multiplies its rounding errors by a thousand."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(std=0.1, generator=generator)


def _rewrite(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _text(config: dict[str, Any], width: int) -> dict[str, Any]:
    depth = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return config | depth | {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}


def _unet(config: dict[str, Any], text: int, ids: int) -> dict[str, Any]:
    levels = len(config["block_out_channels"])
    narrow: dict[str, Any] = {"block_out_channels": [WIDTH] * levels, "norm_num_groups": 8}
    if "cross_attention_dim" in config:
        narrow |= {"cross_attention_dim": text, "attention_head_dim": [2] * levels}
        for key in ("transformer_layers_per_block", "reverse_transformer_layers_per_block"):
            if config.get(key) is not None:
                narrow[key] = _at_most_two(config[key])
    if config.get("addition_embed_type") == "text_time":
        narrow["projection_class_embeddings_input_dim"] = (
            TEXT_WIDTHS["text_encoder_2"] + ids * config["addition_time_embed_dim"]
        )
    return config | narrow


def _vae(config: dict[str, Any]) -> dict[str, Any]:
    if config["_class_name"] == "AutoencoderTiny":
        return config | {key: [8] * 4 for key in ("encoder_block_out_channels", "decoder_block_out_channels")}
    return config | {"block_out_channels": [WIDTH] * len(config["block_out_channels"]), "norm_num_groups": 8}


def _at_most_two(depths: Any) -> Any:
    return [_at_most_two(depth) for depth in depths] if isinstance(depths, list) else min(depths, 2)
