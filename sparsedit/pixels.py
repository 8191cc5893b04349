"""A model that works on pixels and knows no prompt (DDPM, DDIM): one stage, the UNet, and no VAE or text around it.

diffusers has no image-to-image pipeline for these, so the loop of SDEdit is here: noise the picture to `strength`, then
let the stock scheduler take it back (Meng et al., 2021).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from sparsedit.control import Control
from sparsedit.errors import SettingsError
from sparsedit.noise import draw
from sparsedit.schedule import Schedule
from sparsedit.stages import OnStep, Stages, Text, refuse_not_finite


def stages_of(pipe: DiffusionPipeline) -> Stages:
    """A pipeline taken apart, be it on latents or on pixels. Raises ModelError for one that cannot be edited with."""
    return PixelStages(pipe) if isinstance(getattr(pipe, "unet", None), UNet2DModel) else Stages(pipe)


class PixelStages(Stages):
    """The stage that a pipeline of UNet and scheduler has; "latents" are pictures here."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = cast(Any, pipe)
        self.vae = None
        self.unet: nn.Module = self.pipe.unet
        self.controlnet = None
        self.scale = 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("sdedit",)

    @property
    def divisible(self) -> bool:
        return False

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def guided(self, schedule: Schedule) -> bool:
        return False

    def text(self, prompts: Sequence[str], negative: str, schedule: Schedule) -> Text:
        return Text({})

    def knows_text(self, prompt: str, negative: str, schedule: Schedule) -> bool:
        return True

    def texts_per_prompt(self, negative: str, schedule: Schedule) -> int:
        return 0

    def forget_texts(self) -> None:
        """There are none."""

    def denoise(
        self,
        latents: Tensor,
        text: Text,
        schedule: Schedule,
        noise: list[torch.Generator],
        on_step: OnStep,
        control: Control | None = None,
    ) -> Tensor:
        """Pictures [P, 3, H, W] in [-1, 1] -> what the model makes of them, in the same range or a little beyond."""
        if schedule.kept is not None:
            raise SettingsError("a model on pixels takes every step: leave out coarse and record_steps")
        scheduler: Any = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(schedule.steps, device=self.device)
        timesteps = scheduler.timesteps[(schedule.steps - schedule.calls) * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(len(scheduler.timesteps) - len(timesteps))
        takes_noise = "generator" in inspect.signature(scheduler.step).parameters
        drawn = {"generator": noise} if takes_noise else {}
        pictures = latents.to(self.device, self.pipe.unet.dtype)
        pictures = scheduler.add_noise(pictures, draw(pictures, noise), timesteps[:1].repeat(len(pictures)))
        for done, timestep in enumerate(timesteps, 1):
            predicted = self.unet(scheduler.scale_model_input(pictures, timestep), timestep, return_dict=False)[0]
            pictures = scheduler.step(predicted, timestep, pictures, **drawn, return_dict=False)[0]
            on_step(done, len(timesteps))
        refuse_not_finite(pictures)
        return pictures
