"""The four stages of a stock diffusers pipeline, one method each: text, encode, denoise, decode.

Pipelines stay as diffusers wrote them; they are called with latents in and latents out, so that encoder, UNet and
decoder can each be run densely or thinly and be timed apart. Pictures are float tensors [P, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from sparsedit.errors import InputError, ModelError, SettingsError
from sparsedit.settings import effective_steps

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Schedule:
    """How many steps a schedule has, the share of it that is run, and the scale of classifier-free guidance."""

    steps: int
    strength: float
    guidance: float

    def __post_init__(self) -> None:
        if self.calls == 0:
            raise SettingsError(
                f"{self.steps} steps at strength {self.strength:g} leave no step to run; "
                f"use a strength of at least {math.ceil(1000 / max(self.steps, 1)) / 1000:g}, or more steps"
            )

    @property
    def calls(self) -> int:
        """Denoising steps that really run."""
        return effective_steps(self.steps, self.strength)

    @property
    def guided(self) -> bool:
        return self.guidance > 1


@dataclass(frozen=True)
class Text:
    """Embeddings of P prompts and their negatives, by the names the pipeline's call takes them under."""

    embeddings: dict[str, Tensor]


class Stages:
    """A pipeline taken apart into its stages. Text embeddings are computed once per prompt and kept."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        if not all(hasattr(pipe, part) for part in ("vae", "unet", "scheduler", "encode_prompt")):
            raise ModelError(f"{type(pipe).__name__} cannot be edited with: it needs a UNet, a VAE and a text encoder")
        self.pipe = cast(Any, pipe)
        self.image_to_image: Any = AutoPipelineForImage2Image.from_pipe(pipe)
        self.inpainting: Any = AutoPipelineForInpainting.from_pipe(pipe)
        for derived in (self.image_to_image, self.inpainting):
            derived.set_progress_bar_config(disable=True)
        self.vae: Any = self.pipe.vae
        self.unet: nn.Module = self.pipe.unet
        self.scale = int(self.pipe.vae_scale_factor)
        self._texts: dict[tuple[str, str, bool], tuple[Tensor | None, ...]] = {}
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", False):
            self.vae.to(torch.float32)  # SDXL's VAE overflows in float16

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipe._execution_device)

    @property
    def channels(self) -> int:
        """Input channels of the UNet: 4, or 9 for an inpainting model."""
        return int(self.pipe.unet.config.in_channels)

    def calls(self, schedule: Schedule) -> int:
        """How often the UNet is called: once a step, but for schedulers that repeat timesteps or look at each twice."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(schedule.steps)
        return len(scheduler.timesteps[(schedule.steps - schedule.calls) * scheduler.order :])

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError for pictures whose sides the VAE cannot divide; sizes are never snapped silently."""
        if height % self.scale or width % self.scale:
            raise InputError(
                f"a picture of {width}x{height} cannot be edited with this model: "
                f"both sides must be multiples of {self.scale}"
            )

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.scale, width // self.scale

    def text(self, prompts: Sequence[str], negative: str, schedule: Schedule) -> Text:
        """Embeddings of the prompts, in order; each prompt's is computed on its own, once."""
        rows = [self._text(prompt, negative, schedule.guided) for prompt in prompts]
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        columns = zip(names, zip(*rows, strict=True), strict=False)
        return Text({name: torch.cat(column) for name, column in columns if column[0] is not None})

    def knows_text(self, prompt: str, negative: str, schedule: Schedule) -> bool:
        """Whether the embeddings of a prompt are at hand already."""
        return (prompt, negative, schedule.guided) in self._texts

    def texts_per_prompt(self, negative: str, schedule: Schedule) -> int:
        """How many texts a prompt takes to encode: itself, and its negative where guidance needs one."""
        zeros = self.pipe.config.get("force_zeros_for_empty_prompt", False) and not negative
        return 2 if schedule.guided and not zeros else 1

    def forget_texts(self) -> None:
        """Encode every prompt anew from here on."""
        self._texts.clear()

    def encode(self, pictures: Tensor, noise: list[torch.Generator]) -> Tensor:
        """Pictures [P, 3, H, W] -> scaled latents [P, 4, H/8, W/8], each drawn from its posterior with its noise."""
        encoded = self.vae.encode(pictures.to(self.device, self.vae.dtype))
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            latents = posterior.mean + posterior.std * self._draw(posterior.mean, noise)
        else:
            latents = encoded.latents
        mean, std = self._latent_statistics(latents)
        return ((latents - mean) * self.vae.config.scaling_factor / std).to(self.unet.dtype)

    def denoise(
        self, latents: Tensor, text: Text, schedule: Schedule, noise: list[torch.Generator], on_step: OnStep
    ) -> Tensor:
        """SDEdit's loop: noise the latents [P, 4, h, w] to `strength`, then denoise them (stock img2img)."""
        return self._run(self.image_to_image, text, schedule, noise, on_step, image=latents)

    def denoise_masked(
        self,
        latents: Tensor,
        holes: Tensor,
        masked_latents: Tensor | None,
        text: Text,
        schedule: Schedule,
        noise: list[torch.Generator],
        on_step: OnStep,
    ) -> Tensor:
        """Inpainting's loop (stock): `holes` [P, 1, H, W], 1 where the picture is made anew.

        With a 4-channel UNet every step ends by blending the known latents back in; a 9-channel one is told the
        hole and `masked_latents` instead. A 4-channel one never reads these, but without them some pipelines would
        mask the pixels of what they take for a picture.
        """
        height, width = holes.shape[-2:]
        masked_latents = latents if masked_latents is None else masked_latents
        return self._run(
            self.inpainting, text, schedule, noise, on_step,
            image=latents, mask_image=holes, masked_image_latents=masked_latents, height=height, width=width,
        )  # fmt: skip

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [P, 4, h, w] -> pictures [P, 3, H, W] in float32, clamped to [-1, 1]."""
        latents = latents.to(self.vae.dtype)
        mean, std = self._latent_statistics(latents)
        latents = latents * std / self.vae.config.scaling_factor + mean
        decoded: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return decoded.float().clamp(-1, 1)

    def _text(self, prompt: str, negative: str, guided: bool) -> tuple[Tensor | None, ...]:
        key = (prompt, negative, guided)
        if key not in self._texts:
            self._texts[key] = self.pipe.encode_prompt(
                prompt=prompt,
                negative_prompt=negative or None,  # None is what SDXL replaces by zeros, as its users expect
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
            )
        return self._texts[key]

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation by which some VAEs' latents are normalised, [1, 4, 1, 1]; 0 and 1 for most."""
        config = self.vae.config
        mean, std = config.get("latents_mean") or [0.0], config.get("latents_std") or [1.0]
        return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(std).view(1, -1, 1, 1)

    def _draw(self, like: Tensor, noise: list[torch.Generator]) -> Tensor:
        shape = (1, *like.shape[1:])
        return torch.cat(
            [randn_tensor(shape, generator=generator, device=like.device, dtype=like.dtype) for generator in noise]
        )

    def _run(
        self, pipe: Any, text: Text, schedule: Schedule, noise: list[torch.Generator], on_step: OnStep, **inputs: Any
    ) -> Tensor:
        calls = self.calls(schedule)

        def stepped(_pipe: object, index: int, _timestep: object, state: dict[str, Any]) -> dict[str, Any]:
            on_step(index + 1, calls)
            return state

        latents: Tensor = pipe(
            **text.embeddings,
            **inputs,
            num_inference_steps=schedule.steps,
            strength=schedule.strength,
            guidance_scale=schedule.guidance,
            generator=noise,
            output_type="latent",
            callback_on_step_end=stepped,
        ).images
        return latents


def generators(count: int, seed: int) -> list[torch.Generator]:
    """One generator per picture, all in the same state: the pictures of a case share their noise.

    They live on the CPU whatever the device, so that a seed means the same noise everywhere.
    """
    return [torch.Generator("cpu").manual_seed(seed) for _ in range(count)]
