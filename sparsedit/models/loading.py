"""From a name to a diffusers pipeline that is ready to run.

A name is a preset, a diffusers folder, a `.safetensors` file or a hub id, in that order (`./demo` is a folder even
where `demo` is a preset; `sdxl-turbo:FILE` a preset with its weights in a file). Weights are read from safetensors
only, and no code that comes with a model is run. The pipeline stays stock: nothing here knows about sparse editing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoPipelineForText2Image
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from sparsedit.errors import ModelError, SettingsError
from sparsedit.models.folder import FolderIndex, read_index
from sparsedit.models.hub import Fetching, HubId, download, parse_hub_id
from sparsedit.models.lora import fuse_lora
from sparsedit.models.parts import Chosen, check_fit, lora_file, random_part, read_controlnet, read_vae
from sparsedit.models.placement import check_offload, place, resolve_device, resolve_dtype
from sparsedit.models.presets import PRESETS, Part, Preset, get_preset, preset_and_file
from sparsedit.models.random import random_pipeline
from sparsedit.models.reading import Parts, read_pipeline, read_scheduler
from sparsedit.models.schedulers import named_scheduler
from sparsedit.models.silence import silence
from sparsedit.models.single_file import file_index, read_single_file


def load_pipeline(
    name: str,
    *,
    weights: str = "real",
    dtype: str = "auto",
    device: str = "auto",
    offload: str = "none",
    lora: str | None = None,
    vae: str | None = None,
    controlnet: str | None = None,
    scheduler: str | None = None,
) -> DiffusionPipeline:
    """The pipeline called `name`, on `device`, all its models in one dtype, without progress bars of its own.

    Its class is the one its index names, or that one's sister with a ControlNet. `lora` (a file, a folder or a hub id)
    is fused into the weights, `vae` takes the place of the model's own (`tiny`, `fp16-fix`, a folder or a hub id),
    `controlnet` goes beside the UNet (`canny`, ..., a folder or a hub id), `scheduler` is one of
    `schedulers.SCHEDULERS` where it is not to be the model's own. `offload` says what of it waits in the
    machine's memory until it is called (see `placement.OFFLOADS`). `weights="random"` needs the configuration files
    alone and no network; a LoRA makes no sense then. What is not in the local cache is downloaded; `ModelError` says
    how to fetch it when the hub cannot be reached, and why a model cannot be used.
    """
    if weights not in ("real", "random"):
        raise SettingsError(f"unknown weights {weights!r}: use real or random")
    if weights == "random" and lora:
        raise SettingsError("a LoRA means nothing to random weights; leave out --lora or use --weights real")
    target = resolve_device(device)
    check_offload(offload, target)
    found = _find(name, real=weights == "real")
    precision = resolve_dtype(dtype, target, found.preset)
    if weights == "random":
        home = target if offload == "none" else torch.device("cpu")  # where it waits
        pipe, control = _random(found, precision, home, vae, controlnet)
    else:
        own_vae, beside = found.choose("VAE", vae), found.choose("ControlNet", controlnet)
        given = {"vae": read_vae(own_vae, precision)} if own_vae else {}
        pipe = _read(found, precision, given)
        _fuse(pipe, found.preset.lora if found.preset else None, lora)
        control = read_controlnet(beside, precision) if beside else None
    _schedule(pipe, found.preset, scheduler)
    return _placed(pipe, control, name, target, offload)


def empty_pipeline(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    *,
    vae: str | None = None,
    controlnet: str | None = None,
    scheduler: str | None = None,
) -> DiffusionPipeline:
    """The pipeline called `name` with shapes and no numbers, on the meta device, in the dtype it has on `device`.

    What counting needs, in no memory and without a download. Raises ModelError for a model whose configuration files
    are not on this machine.
    """
    found = _find(name, real=False)
    precision = resolve_dtype(dtype, resolve_device(device), found.preset)
    pipe, control = _random(found, precision, torch.device("meta"), vae, controlnet)
    _schedule(pipe, found.preset, scheduler)
    return pipe if control is None else with_controlnet(pipe, control)


def with_controlnet(pipe: DiffusionPipeline, controlnet: nn.Module) -> DiffusionPipeline:
    """A ControlNet pipeline of the same family, made of the same models."""
    with silence():
        controlled: DiffusionPipeline = AutoPipelineForText2Image.from_pipe(pipe, controlnet=controlnet)
    return controlled


def load_refiner(
    name: str, base: str, pipe: DiffusionPipeline, *, weights: str = "real", offload: str = "none"
) -> DiffusionPipeline:
    """The refiner called `name` for the pipeline `pipe` of the model called `base`, on its device and in its dtype.

    It shares the base's VAE and, where it was made for that model, the second text encoder, and goes on by the base's
    scheduler, which left it latents of that kind. Raises ModelError as
    `load_pipeline`, and for a model with latents of another kind.
    """
    models: Any = pipe
    found = _find(name, real=weights == "real")
    given: Parts = {"vae": models.vae}
    if found.preset is not None and found.preset.refines == base:
        given |= {part: getattr(models, part) for part in ("text_encoder_2", "tokenizer_2")}
    dtype, device = models.unet.dtype, models._execution_device
    if weights == "random":
        refiner = random_pipeline(found.index, dtype, device=device if offload == "none" else "cpu", given=given)
    else:
        refiner = _read(found, dtype, given)
    refiner.register_modules(scheduler=type(models.scheduler).from_config(models.scheduler.config))
    return _placed(refiner, None, name, device, offload)


def model_revision(pipe: DiffusionPipeline) -> str | None:
    """The hub's commit that the weights of a loaded pipeline come from; `None` for any other folder."""
    folder = Path(pipe.config.get("_name_or_path") or "")
    return folder.name if folder.parent.name == "snapshots" else None


@dataclass(frozen=True)
class _Found:
    """What a name led to: a preset or none, an index with the folders behind it, and the file with the weights if they
    are in one."""

    preset: Preset | None
    index: FolderIndex
    file: Path | None = None

    def choose(self, kind: str, name: str | None) -> Chosen | None:
        """A VAE or ControlNet by its name among those that fit the model, or by its place."""
        if name is None:
            return None
        # A model without a preset has the parts of the first one of its kind.
        pipeline = self.index.pipeline.__name__
        alike = (preset for preset in PRESETS.values() if preset.hub_id and preset.pipeline == pipeline)
        preset = self.preset or next(alike, None)
        known = {} if preset is None else preset.vaes if kind == "VAE" else preset.controlnets
        return Chosen(kind, name, known)


def _find(name: str, *, real: bool) -> _Found:
    """Where the model is; downloads it where real weights need that."""
    preset, file = preset_and_file(name)
    path = Path(file or name).expanduser()
    if file or (preset is None and path.is_file()):
        return _Found(preset, file_index(path, preset), path)
    if preset is None:
        return _Found(None, read_index(_folder(name, path, real=real)))
    preset.check_installed()
    if preset.hub_id is None or not real:
        return _Found(preset, read_index(*preset.folders))
    source = HubId(preset.hub_id, preset.revision)
    return _Found(preset, read_index(download(source, preset.variant, Fetching(name))))


def _folder(name: str, path: Path, *, real: bool) -> Path:
    if path.is_dir():
        return path
    if hub := parse_hub_id(name):
        if real:
            return download(hub)
        raise ModelError(f"model {name!r} is no folder on this machine: random weights need a preset, folder or file")
    if "/" in name or "\\" in name:
        raise ModelError(f"model folder {name} does not exist")
    get_preset(name)  # not one either: the error names those there are
    raise AssertionError(name)


def _read(found: _Found, dtype: torch.dtype, given: Parts) -> DiffusionPipeline:
    if found.file is not None:
        return read_single_file(found.file, found.index, dtype, given)
    return read_pipeline(found.index, dtype, found.preset.variant if found.preset else None, given)


def _random(
    found: _Found, dtype: torch.dtype, device: torch.device, vae: str | None, controlnet: str | None
) -> tuple[DiffusionPipeline, nn.Module | None]:
    """The pipeline with random weights, and its ControlNet where one was asked for."""
    own_vae, beside = found.choose("VAE", vae), found.choose("ControlNet", controlnet)
    given = {"vae": random_part(own_vae, dtype, device)} if own_vae else {}
    pipe = random_pipeline(found.index, dtype, device=device, given=given)
    return pipe, random_part(beside, dtype, device) if beside else None


def _schedule(pipe: DiffusionPipeline, preset: Preset | None, asked: str | None) -> None:
    """Give the pipeline the scheduler of its preset, or the one that was asked for."""
    if preset is not None and preset.scheduler_folder is not None:
        pipe.register_modules(scheduler=read_scheduler(preset.scheduler_folder))
    if asked is not None:
        pipe.register_modules(scheduler=named_scheduler(asked, cast(Any, pipe).scheduler))


def _fuse(pipe: DiffusionPipeline, own: Part | None, asked: str | None) -> None:
    """Fuse the preset's own LoRA, and the one that was asked for."""
    if own is not None:
        fuse_lora(pipe, lora_file(Chosen("LoRA", own.name, {own.name: own})))
    if asked:
        fuse_lora(pipe, lora_file(Chosen("LoRA", asked, {})))


def _placed(
    pipe: DiffusionPipeline, control: nn.Module | None, name: str, device: torch.device, offload: str
) -> DiffusionPipeline:
    models: Any = pipe
    if hasattr(pipe, "vae"):
        check_fit(models.unet, models.vae, control)
    if control is not None:
        pipe = with_controlnet(pipe, control.eval())
    pipe.set_progress_bar_config(disable=True)
    try:
        place(pipe, device, offload)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {name!r} in {models.unet.dtype} does not fit into the memory of {device}; try --offload model"
        ) from error
    return pipe
