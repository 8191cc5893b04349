"""What is measured: a model with random weights, the calls of a recorded original, and those of an edit of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from sparsedit.measure.macs import count_macs
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_model
from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse

BATCH = 2
TEXT_LENGTH = 77
CLASSES: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}

Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """Everything at full size, or the same on something tiny. Sizes are height and width in pixels."""

    preset: str
    sizes: tuple[tuple[int, int], ...]
    dtype: torch.dtype


FULL = Scale("sdxl", ((512, 1024), (1024, 1024)), torch.bfloat16)
TINY = Scale("demo", ((64, 128),), torch.float32)


def config_of(preset: str, part: str) -> dict[str, Any]:
    """The configuration of a preset's `unet` or `vae`."""
    path = Path(get_preset(preset).config_folder) / part / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def build(preset: str, part: str, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A preset's `unet` or `vae` with random weights."""
    return random_model(CLASSES[part], config_of(preset, part), dtype, device=device)


def same_weights(model: Any) -> nn.Module:
    """Another model over the same weights, whose forwards no context swaps; for torch.compile."""
    twin = random_model(type(model), dict(model.config), device="meta")
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin


@dataclass
class Subject:
    """A model and its calls: `originals` are recorded, `edited` is what thin and dense calls are measured with.

    An edit makes one call to be ready (its first) and `calls` more that count, one step after the other.
    """

    model: nn.Module
    originals: list[Kwargs]
    edited: list[Kwargs]
    calls: int
    cache: ActivationCache = field(default_factory=ActivationCache)

    def record(self) -> None:
        """Run the originals densely; their steps are then repeated so that the schedule is long enough."""
        with record(self.model, self.cache):
            for inputs in self.originals:
                self.model(**inputs)
        self.cache.steps = [self.cache.steps[number % len(self.originals)] for number in range(1 + self.calls)]

    @property
    def schedule(self) -> list[Kwargs]:
        """The inputs of an edit's calls, the first one included."""
        return [self.edited[number % len(self.edited)] for number in range(1 + self.calls)]

    def burst(self, call: Callable[..., Any]) -> Any:
        """The calls that count, by the model or something that stands for it; what the last one returned."""
        result = None
        for inputs in self.schedule[1:]:
            result = call(**inputs)
        return result

    def macs(self, sites: dict[str, SitePyramid]) -> dict[str, int]:
        """Multiply-adds of one call, dense and on each of the sites; for a subject on the meta device."""
        counted = {}
        with count_macs() as count:
            self.model(**self.edited[0])
        counted["dense"] = count.macs + count.attention_macs
        for name, pyramid in sites.items():
            with sparse(self.model, self.cache, pyramid):
                self.model(**self.schedule[0])
                with count_macs() as count:
                    self.model(**self.schedule[1])
            counted[name] = count.macs + count.attention_macs
        return counted


def unet_subject(model: Any, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Subject:
    """Two steps of a UNet on pictures of height x width pixels, under classifier-free guidance (batch 2)."""
    config: Any = model.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    noise = Noise(device, dtype)
    conditions = {
        "encoder_hidden_states": noise(BATCH, TEXT_LENGTH, config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": noise(BATCH, pooled), "time_ids": noise(BATCH, 6)},
    }
    shape = (BATCH, config.in_channels, height // 8, width // 8)
    steps = [{"timestep": torch.tensor(step, device=device), **conditions} for step in (601, 401)]
    originals = [{"sample": noise(*shape), **step} for step in steps]
    return Subject(model, originals, [{"sample": noise(*shape), **step} for step in steps], calls=4)


def vae_subjects(vae: Any, height: int, width: int, device: torch.device, dtype: torch.dtype) -> dict[str, Subject]:
    """Encoder and decoder of a VAE on one picture of height x width pixels."""
    noise = Noise(device, dtype)
    shapes = {"encoder": (1, 3, height, width), "decoder": (1, vae.config.latent_channels, height // 8, width // 8)}
    return {
        name: Subject(getattr(vae, name), [{"sample": noise(*shape)}], [{"sample": noise(*shape)}], calls=1)
        for name, shape in shapes.items()
    }


class Noise:
    """Seeded normal numbers, drawn on the CPU whatever the device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device, self.dtype)
