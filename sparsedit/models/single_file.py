"""Models in one `.safetensors` file, in the layout their authors published them in (base, refiner, Turbo, SD 1.5 ...).

Such a file holds weights alone. Which architecture they are of is taken, in this order, from a preset named with the
file (`sdxl-turbo:FILE`), from a `model_index.json` beside the file, or from the names and shapes of the weights. Turbo
and LCM weights have SDXL's names and shapes: only the first two ways tell them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedTokenizerBase

from sparsedit.errors import ModelError
from sparsedit.models.folder import INDEX, FolderIndex, read_index
from sparsedit.models.presets import PRESETS, Preset
from sparsedit.models.reading import Parts, first_sentence, in_rows, read_scheduler
from sparsedit.models.silence import silence
from sparsedit.models.tokenizer import clip_tokenizer, has_vocabulary

Shapes = dict[str, tuple[int, ...]]

_UNET = "model.diffusion_model."
_FIRST_CONV = f"{_UNET}input_blocks.0.0.weight"
_DEEP_BLOCK = f"{_UNET}input_blocks.8.1.transformer_blocks."


def file_index(file: Path, preset: Preset | None) -> FolderIndex:
    """The index of the architecture of the weights in `file`, a preset's where one was named with it.

    Raises ModelError for a file that is not there, is no safetensors file or of no known architecture.
    """
    if not file.is_file():
        raise ModelError(f"model file {file} does not exist")
    return read_index(*_configuration(file, read_shapes(file), preset))


def read_single_file(file: Path, index: FolderIndex, dtype: torch.dtype, given: Parts) -> DiffusionPipeline:
    """The pipeline in `file`, on the CPU; `given` are components that are there already, by name.

    Raises ModelError for weights that do not fit the architecture of `index`.
    """
    folder = index.folders[0]
    parts = given | {
        name: _tokenizer(index, name)
        for name, cls in index.components.items()
        if cls is not None and issubclass(cls, PreTrainedTokenizerBase)
    }
    if "scheduler" not in parts:
        parts["scheduler"] = read_scheduler(folder / "scheduler")
    loader: Any = index.pipeline
    try:
        with silence():
            pipe: DiffusionPipeline = loader.from_single_file(
                str(file), config=str(folder), dtype=dtype, local_files_only=True, **parts, **index.options
            )
    except (OSError, ValueError, RuntimeError, KeyError, SingleFileComponentError, SafetensorError) as error:
        raise ModelError(f"the model in {file} cannot be loaded: {first_sentence(error)}") from error
    _check_complete(pipe, file)
    for name, cls in index.components.items():
        if cls is not None and issubclass(cls, nn.Module):
            in_rows(getattr(pipe, name))
    pipe.register_to_config(_name_or_path=str(file))
    return pipe


def read_shapes(file: Path) -> Shapes:
    """Names and shapes of the weights in a safetensors file, from its header alone."""
    if file.suffix != ".safetensors":
        raise ModelError(f"{file} is no .safetensors file; weights are read from no other")
    try:
        with safe_open(str(file), framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} is not a valid safetensors file: {error}") from error


def recognise(shapes: Shapes) -> str | None:
    """The preset whose architecture weights of these names and shapes have; None for an unknown one."""
    if _FIRST_CONV not in shapes:
        return None
    inpaints = shapes[_FIRST_CONV][1] == 9
    names = shapes.keys()
    if any(name.startswith("conditioner.embedders.1.") for name in names):
        if inpaints:
            return "sdxl-inpaint"
        return "sdxl" if any(name.startswith(f"{_DEEP_BLOCK}9.") for name in names) else None
    if any(name.startswith("conditioner.embedders.0.model.") for name in names):
        return "sdxl-refiner"
    if inpaints:
        return None
    if any(name.startswith("cond_stage_model.transformer.") for name in names):
        return "sd15"
    return "sd21" if any(name.startswith("cond_stage_model.model.") for name in names) else None


def _configuration(file: Path, shapes: Shapes, preset: Preset | None) -> tuple[Path, ...]:
    if preset is not None:
        return preset.folders
    if (file.parent / INDEX).is_file():
        return (file.parent,)
    name = recognise(shapes)
    if name is not None:
        return PRESETS[name].folders
    if any("lora" in key for key in shapes):
        raise ModelError(f"{file} is a LoRA: give it with --lora, and a model with --model")
    if _FIRST_CONV not in shapes:
        raise ModelError(
            f"{file} is not a whole model in the original layout (it has no {_FIRST_CONV}); "
            "a model in several files is loaded from its folder"
        )
    raise ModelError(
        f"the architecture of {file} is not recognised: name a preset with it (sdxl-turbo:{file}), "
        f"or put the {INDEX} and configurations of its diffusers folder beside it"
    )


def _tokenizer(index: FolderIndex, name: str) -> PreTrainedTokenizerBase:
    folder = index.folders[0] / name
    cls: Any = index.components[name]
    if not has_vocabulary(folder):
        return clip_tokenizer(folder)
    tokenizer: PreTrainedTokenizerBase = cls.from_pretrained(str(folder), local_files_only=True)
    return tokenizer


def _check_complete(pipe: DiffusionPipeline, file: Path) -> None:
    """Raise ModelError where a weight of the architecture was not in the file: it has no storage then."""
    for name, model in pipe.components.items():
        if not isinstance(model, nn.Module):
            continue
        missing = [key for key, weight in model.named_parameters() if weight.device.type == "meta"]
        if missing:
            raise ModelError(
                f"the model in {file} cannot be loaded: {len(missing)} weights of its {name} are missing "
                f"(the first: {missing[0]})"
            )
