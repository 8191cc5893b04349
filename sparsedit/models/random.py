"""Full-size models with random weights, made from their configuration files alone.

What a sparse edit saves in multiply-adds, seconds and memory does not depend on what the weights say, so a
model of 5 GB can be measured on a machine without network or disk space. The pictures mean nothing.

A model is built without storage, then every parameter is allocated once, in its final dtype and layout, and
filled in place from one repeated block of seeded numbers: 2.6 B parameters take seconds and no second copy.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from sparsedit.errors import ModelError
from sparsedit.models.folder import FolderIndex, read_index, read_json
from sparsedit.models.presets import Preset
from sparsedit.models.tokenizer import clip_tokenizer, has_vocabulary

# A prime, so that no two rows of a weight matrix start at the same place of the block and come out equal.
_BLOCK = 4_194_301


class _Numbers:
    """An endless stream of normal numbers of standard deviation 1: one seeded block, again and again."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere.
        generator = torch.Generator().manual_seed(seed)
        self._block = torch.randn(_BLOCK, generator=generator).to(device, dtype)
        self._position = 0

    def fill(self, flat: torch.Tensor, scale: float) -> None:
        """Write the next `flat.numel()` numbers, times `scale`, into the 1-d tensor `flat`."""
        start = 0
        while start < flat.numel():
            part = self._block[self._position : self._position + flat.numel() - start]
            torch.mul(part, scale, out=flat[start : start + part.numel()])
            start += part.numel()
            self._position = (self._position + part.numel()) % _BLOCK


def random_model(
    cls: type[nn.Module],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A model of class `cls` (diffusers or transformers) with random weights, in evaluation mode.

    Weights are normal with standard deviation 1/sqrt(fan-in), norms are the identity, biases are 0, so that
    activations stay finite at full size in bfloat16. With `device="meta"` the model has shapes and no
    numbers.
    """
    device = torch.device(device)
    # Buffers get their storage at once: they hold computed values, which nothing would restore.
    with init_empty_weights(include_buffers=False):
        model = _build(cls, config)
    numbers = _Numbers(dtype, device, seed)
    for module in model.modules():
        for name, empty in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, _parameter(name, empty, numbers, dtype, device))
    return model.to(device).eval()


def _build(cls: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    if issubclass(cls, transformers.PreTrainedModel):
        assert cls.config_class is not None
        return cls(cls.config_class.from_dict(config))
    if issubclass(cls, diffusers.ModelMixin):
        return cls.from_config(config)
    raise ModelError(f"random weights are made for diffusers and transformers models, not for {cls.__name__}")


@torch.no_grad()
def _parameter(
    name: str, empty: nn.Parameter, numbers: _Numbers, dtype: torch.dtype, device: torch.device
) -> nn.Parameter:
    """`empty` with storage and values."""
    if empty.dim() < 2:
        value = torch.full(empty.shape, 0.0 if "bias" in name else 1.0, dtype=dtype, device=device)
        return nn.Parameter(value)
    scale = 1 / math.sqrt(empty.shape[1:].numel())
    if empty.dim() == 4:
        # The engine multiplies gathered rows [N, kh*kw*I] by the kernel as [O, kh*kw*I]: in channels-last
        # order that is a view of the weight, otherwise a second copy of every convolution.
        value = torch.empty(empty.shape, dtype=dtype, device=device, memory_format=torch.channels_last)
        numbers.fill(value.permute(0, 2, 3, 1).view(-1), scale)
    else:
        value = torch.empty(empty.shape, dtype=dtype, device=device)
        numbers.fill(value.view(-1), scale)
    return nn.Parameter(value)


def random_pipeline(
    model: Preset | Path | FolderIndex,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    given: Mapping[str, Any] = MappingProxyType({}),
) -> DiffusionPipeline:
    """The pipeline of a preset, a diffusers folder or its index (weights are not read), with random weights.

    `given` are components that are there already, by name. A preset's LoRA is left out: fused, it changes no shape.
    """
    index = model if isinstance(model, FolderIndex) else _index(model)
    parts = dict(given) | {
        name: _component(index, name, cls, dtype, seed, device)
        for name, cls in index.components.items()
        if name not in given
    }
    pipe = index.pipeline(**parts, **index.options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _index(model: Preset | Path) -> FolderIndex:
    if isinstance(model, Path):
        return read_index(model)
    model.check_installed()
    return read_index(*model.folders)


def _component(
    index: FolderIndex, name: str, cls: Any, dtype: torch.dtype, seed: int, device: torch.device | str
) -> Any:
    if cls is None:
        return None
    if issubclass(cls, nn.Module):
        config = read_json(index.home(name, "config.json") / "config.json")
        # Parts of one pipeline differ from each other, whatever else is in it.
        return random_model(cls, config, dtype, seed + zlib.crc32(name.encode()), device)
    if issubclass(cls, transformers.PreTrainedTokenizerBase):
        folder = index.home(name, "tokenizer_config.json")
        if not has_vocabulary(folder):
            return clip_tokenizer(folder)
        return cls.from_pretrained(str(folder), local_files_only=True)
    return cls.from_pretrained(str(index.home(name, "scheduler_config.json")), local_files_only=True)
