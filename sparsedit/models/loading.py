"""From a name to a diffusers pipeline that is ready to run.

A name is a preset, a diffusers folder or a hub id, in that order (`./demo` is a folder even where `demo` is
a preset). Weights are read from safetensors only, and no code that comes with a model is run. The pipeline
stays stock: nothing here knows about sparse editing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError
from transformers import PreTrainedModel

from sparsedit.errors import ModelError, SettingsError
from sparsedit.models.folder import read_index
from sparsedit.models.hub import download
from sparsedit.models.placement import resolve_device, resolve_dtype
from sparsedit.models.presets import PRESETS, Preset, get_preset
from sparsedit.models.random import random_pipeline
from sparsedit.models.silence import silence

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_pipeline(name: str, *, weights: str = "real", dtype: str = "auto", device: str = "auto") -> DiffusionPipeline:
    """The pipeline called `name`, on `device`, all its models in one dtype, without progress bars of its own.

    Its class is the one its index names. `weights="random"` needs the configuration files alone (a preset
    or a folder) and no network. A hub model that is not in the local cache is downloaded; `ModelError` says
    how to fetch it when the hub cannot be reached, and why a model cannot be used.
    """
    preset = PRESETS.get(name)
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target, preset)
    if weights == "random":
        return random_pipeline(preset or _local_folder(name), precision, device=target)
    if weights != "real":
        raise SettingsError(f"unknown weights {weights!r}: use real or random")
    pipe = _read(_find(name, preset), precision, preset.variant if preset else None)
    pipe.set_progress_bar_config(disable=True)
    try:
        return pipe.to(target)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"model {name!r} in {precision} does not fit into the memory of {target}") from error


def model_revision(pipe: DiffusionPipeline) -> str | None:
    """The hub's commit that the weights of a loaded pipeline come from; `None` for any other folder."""
    folder = Path(pipe.config.get("_name_or_path") or "")
    return folder.name if folder.parent.name == "snapshots" else None


def _find(name: str, preset: Preset | None) -> Path:
    """The folder on this machine that holds the model; downloads it where that is needed."""
    if preset is not None:
        if preset.embedded_folder is not None:
            return preset.embedded_folder
        assert preset.hub_id is not None
        return download(preset.hub_id, preset.revision, preset.variant)
    if not Path(name).expanduser().exists() and _HUB_ID.fullmatch(name):
        return download(name)
    return _local_folder(name)


def _local_folder(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelError(f"{name} is a file; a model is loaded from a diffusers folder (with a model_index.json)")
    if _HUB_ID.fullmatch(name):
        raise ModelError(f"model {name!r} is no folder on this machine: random weights need a preset or a folder")
    if "/" in name or "\\" in name:
        raise ModelError(f"model folder {name} does not exist")
    get_preset(name)  # not one either: the error names those there are
    raise AssertionError(name)


def _read(folder: Path, dtype: torch.dtype, variant: str | None) -> DiffusionPipeline:
    """The pipeline in `folder`, on the CPU."""
    index = read_index(folder)
    for name, cls in index.components.items():
        if cls is not None and not (folder / name).is_dir():
            raise ModelError(f"the model in {folder} lacks its {name}: {folder / name} does not exist")
    parts: dict[str, Any] = {
        name: _read_model(folder / name, cls, dtype, variant)
        for name, cls in index.components.items()
        if cls is not None and issubclass(cls, torch.nn.Module)
    }
    options = {**index.options, "dtype": dtype, "local_files_only": True, "trust_remote_code": False}
    try:
        with silence():
            return index.pipeline.from_pretrained(str(folder), **parts, **options)
    except (OSError, ValueError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {_first_sentence(error)}") from error


def _read_model(folder: Path, cls: Any, dtype: torch.dtype, variant: str | None) -> torch.nn.Module:
    """One model of a pipeline, with every weight its architecture has; further weights are ignored."""
    options: dict[str, Any] = {"dtype": dtype, "variant": variant, "use_safetensors": True}
    if issubclass(cls, PreTrainedModel):
        # Else the error only refers to a table that was printed; what does not fit is checked below.
        options["ignore_mismatched_sizes"] = True
    try:
        with silence():
            model, info = cls.from_pretrained(str(folder), **options, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {_first_sentence(error)}") from error
    for problem in ("missing", "mismatched"):
        if found := info[f"{problem}_keys"]:
            names = sorted(key if isinstance(key, str) else key[0] for key in found)
            raise ModelError(
                f"the model in {folder} cannot be loaded: {len(names)} of its weights are {problem} "
                f"(the first: {names[0]}), so its files do not belong together"
            )
    # As for random weights; `random.py` says why.
    return model.to(memory_format=torch.channels_last)


def _first_sentence(error: Exception) -> str:
    """What the library says went wrong, without its advice, which is for its own arguments."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return text.rstrip(".") or type(error).__name__
