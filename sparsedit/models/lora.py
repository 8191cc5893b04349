"""A LoRA, fused into the weights of a pipeline, so that what runs afterwards are the plain layers of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn

from sparsedit.errors import ModelError
from sparsedit.models.reading import first_sentence
from sparsedit.models.silence import silence

_FIRST_HALVES = (".lora_A.", ".lora.down.", "_lora.down.", ".lora_down.", ".lora_linear_layer.down.")
"""How the many spellings of LoRA files name the first matrix of a layer's pair."""


def fuse_lora(pipe: DiffusionPipeline, file: Path) -> None:
    """Add the LoRA in the safetensors `file` to the pipeline's weights.

    Raises ModelError when the file holds none, or one of whose layers the pipeline has no place for.
    """
    if not isinstance(pipe, LoraBaseMixin):
        raise ModelError(f"{type(pipe).__name__} takes no LoRA")
    target: Any = pipe
    source = {"weight_name": file.name, "use_safetensors": True, "local_files_only": True}
    try:
        with silence():
            layers = target.lora_state_dict(str(file.parent), unet_config=target.unet.config, **source)[0]
            asked = sum(any(half in key for half in _FIRST_HALVES) for key in layers)
            target.load_lora_weights(str(file.parent), adapter_name="lora", **source)
            if (placed := _adapted(target)) == asked:
                target.fuse_lora(safe_fusing=True)
            target.unload_lora_weights()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"the LoRA {file} cannot be loaded: {first_sentence(error)}") from error
    if placed != asked or not asked:
        raise ModelError(
            f"the LoRA {file} does not belong to this model: {placed} of its {asked} layers have a place in it"
            if asked
            else f"{file} holds no LoRA that diffusers knows"
        )


def _adapted(pipe: DiffusionPipeline) -> int:
    """How many layers of the pipeline carry an adapter."""
    models = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    return sum(isinstance(module, BaseTunerLayer) for model in models for module in model.modules())
