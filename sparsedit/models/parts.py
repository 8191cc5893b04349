"""Parts that are chosen beside a model: another VAE, a ControlNet, a LoRA, by a name the preset knows or a place.

A place is a folder, for a LoRA also a `.safetensors` file, or a hub id (`owner/name`, `owner/name@revision`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel
from torch import nn

from sparsedit.errors import ModelError, did_you_mean
from sparsedit.models.folder import named_class, read_json
from sparsedit.models.hub import Fetching, HubId, download_files, parse_hub_id
from sparsedit.models.presets import Part
from sparsedit.models.random import random_model
from sparsedit.models.reading import read_model

VAES = (AutoencoderKL, AutoencoderTiny)
LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Chosen:
    """A part as the user named it: `kind` is "VAE", "ControlNet" or "LoRA", `known` what the preset calls so."""

    kind: str
    name: str
    known: Mapping[str, Part]

    @property
    def part(self) -> Part | None:
        """The preset's own part of that name, be it the preset's name for it or its own."""
        return next((part for name, part in self.known.items() if self.name in (name, part.name)), None)

    def folder(self, files: Sequence[str]) -> Path:
        """The folder on this machine with the part's files, which are downloaded where that is needed."""
        if self.part is not None:
            return fetched_part(self.part, files)
        place = Path(self.name).expanduser()
        if place.exists():
            return place
        if hub := parse_hub_id(self.name):
            return download_files(hub, [hub.file] if hub.file else files)
        known = f"{', '.join(self.known)} (with this model), " if self.known else ""
        places = "a file, a folder or a hub id" if self.kind == "LoRA" else "a folder or a hub id"
        hint = did_you_mean(self.name, self.known)
        raise ModelError(f"there is no {self.kind} {self.name!r}: give {known}{places}{hint}")


def fetched_part(part: Part, files: Sequence[str]) -> Path:
    """The folder with a named part's files. Raises ModelError where they are neither here nor to be had."""
    if part.embedded_folder is not None:
        if not part.embedded_folder.is_dir():
            raise ModelError(f"{part.title} is not part of this installation: {part.embedded_folder} does not exist")
        return part.embedded_folder
    assert part.hub_id is not None
    return download_files(HubId(part.hub_id, part.revision), files, Fetching(part.name))


def model_files(variant: str | None) -> list[str]:
    """The patterns of a lone model's files in its repository."""
    weights = f"diffusion_pytorch_model.{variant}" if variant else "diffusion_pytorch_model"
    return ["config.json", f"{weights}.safetensors"]


def read_vae(chosen: Chosen, dtype: torch.dtype) -> nn.Module:
    """The VAE, an AutoencoderKL or an AutoencoderTiny. Raises ModelError for any other class."""
    return _read(chosen, VAES, dtype)


def read_controlnet(chosen: Chosen, dtype: torch.dtype) -> nn.Module:
    """The ControlNet. Raises ModelError for a model of another class."""
    return _read(chosen, (ControlNetModel,), dtype)


def random_part(chosen: Chosen, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """The VAE or ControlNet with random weights, from its configuration alone."""
    kinds = VAES if chosen.kind == "VAE" else (ControlNetModel,)
    folder = chosen.part.config_folder if chosen.part else chosen.folder(["config.json"])
    cls = named_class(folder / "config.json", kinds)
    return random_model(cls, read_json(folder / "config.json"), dtype, device=device)


def lora_file(chosen: Chosen) -> Path:
    """The safetensors file of the LoRA."""
    place = chosen.folder([(chosen.part and chosen.part.file) or LORA_FILE])
    if place.is_file():
        if place.suffix != ".safetensors":
            raise ModelError(f"{place} is no .safetensors file; a LoRA is read from no other")
        return place
    hub = parse_hub_id(chosen.name) if not Path(chosen.name).expanduser().exists() else None
    named = (chosen.part and chosen.part.file) or (hub and hub.file) or LORA_FILE
    if (place / named).is_file():
        return place / named
    files = sorted(place.glob("*.safetensors"))
    if len(files) != 1:
        found = f"{len(files)} of them" if files else "none"
        raise ModelError(f"the LoRA folder {place} must hold {LORA_FILE} or one .safetensors file; it holds {found}")
    return files[0]


def check_fit(unet: nn.Module, vae: nn.Module, controlnet: nn.Module | None) -> None:
    """Raise ModelError where a VAE or ControlNet was made for another kind of UNet."""
    config: Any = unet.config
    latents = _config(vae)["latent_channels"]
    if config["out_channels"] != latents:
        raise ModelError(f"the VAE has latents of {latents} channels, this UNet takes {config['out_channels']}")
    if controlnet is None:
        return
    for key in ("cross_attention_dim", "block_out_channels", "layers_per_block"):
        mine, its = config[key], _config(controlnet)[key]
        if mine != its and list(mine if isinstance(mine, Sequence) else [mine]) != list(
            its if isinstance(its, Sequence) else [its]
        ):
            raise ModelError(f"the ControlNet was made for another model: its {key} is {its}, this UNet's {mine}")


def _read(chosen: Chosen, kinds: tuple[type, ...], dtype: torch.dtype) -> nn.Module:
    variant = chosen.part.variant if chosen.part else None
    folder = chosen.folder(model_files(variant))
    return read_model(folder, named_class(folder / "config.json", kinds), dtype, variant)


def _config(model: nn.Module) -> Mapping[str, Any]:
    config: Any = model.config
    return config
