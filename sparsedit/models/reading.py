"""From a diffusers folder on this machine to models in memory, on the CPU.

Weights are read from safetensors only, every one that the architecture has must be there, and no code that comes with
a model is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsedit.errors import ModelError
from sparsedit.models.folder import FolderIndex, named_class
from sparsedit.models.silence import silence
from sparsedit.models.tokenizer import OWN_VOCABULARY

Parts = dict[str, Any]


def read_pipeline(index: FolderIndex, dtype: torch.dtype, variant: str | None, given: Parts) -> DiffusionPipeline:
    """The pipeline that `index` describes; `given` are components that are there already, by name."""
    parts = dict(given)
    for name, cls in index.components.items():
        if name not in parts:
            parts[name] = None if cls is None else _read_component(index, name, cls, dtype, variant)
    pipe = index.pipeline(**parts, **index.options)
    # What model the pipeline is; diffusers' own from_pretrained leaves it there too.
    pipe.register_to_config(_name_or_path=str(index.folders[-1]))
    return pipe


def read_model(folder: Path, cls: Any, dtype: torch.dtype, variant: str | None = None) -> nn.Module:
    """One model, with every weight its architecture has; further weights are ignored.

    `variant` is taken where the folder has it.
    """
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    if variant and any(folder.glob(f"*.{variant}.safetensors")):
        options["variant"] = variant
    if issubclass(cls, PreTrainedModel):
        # Else the error only refers to a table that was printed; what does not fit is checked below.
        options["ignore_mismatched_sizes"] = True
    try:
        with silence():
            model, info = cls.from_pretrained(str(folder), **options, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {first_sentence(error)}") from error
    for problem in ("missing", "mismatched"):
        if found := info[f"{problem}_keys"]:
            names = sorted(key if isinstance(key, str) else key[0] for key in found)
            raise ModelError(
                f"the model in {folder} cannot be loaded: {len(names)} of its weights are {problem} "
                f"(the first: {names[0]}), so its files do not belong together"
            )
    return in_rows(model)


def read_scheduler(folder: Path) -> SchedulerMixin:
    """The scheduler in `folder`."""
    cls = named_class(folder / "scheduler_config.json", (SchedulerMixin,))
    return _loaded(cls, folder)


def in_rows(model: nn.Module) -> nn.Module:
    """The model with its kernels in channels-last order, which `random.py` says the reason of.

    Each is reordered where it lies: no second copy of the weights, and no holes in memory where the first one was.
    """
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 4 and not weight.is_contiguous(memory_format=torch.channels_last):
                rows = weight.to(memory_format=torch.channels_last)
                storage, offset = weight.untyped_storage(), weight.storage_offset()
                weight.data = rows.new_empty(0).set_(storage, offset, weight.shape, rows.stride()).copy_(rows)
    return model


def first_sentence(error: Exception) -> str:
    """What a library says went wrong, without its advice, which is for its own arguments."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return text.rstrip(".") or type(error).__name__


def _read_component(index: FolderIndex, name: str, cls: type, dtype: torch.dtype, variant: str | None) -> Any:
    if issubclass(cls, nn.Module):
        return read_model(_home(index, name, "config.json"), cls, dtype, variant)
    if issubclass(cls, PreTrainedTokenizerBase):
        return _loaded(cls, _home(index, name, *OWN_VOCABULARY))
    return _loaded(cls, _home(index, name, "scheduler_config.json"))


def _home(index: FolderIndex, name: str, *files: str) -> Path:
    folders = [index.home(name, file) for file in files]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        where = index.folders[0]
        raise ModelError(f"the model in {where} lacks its {name}: {folders[0]} does not exist")
    return folder


def _loaded(cls: Any, folder: Path) -> Any:
    try:
        with silence():
            return cls.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {first_sentence(error)}") from error
