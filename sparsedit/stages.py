"""The four stages of a stock diffusers pipeline, one method each: text, encode, denoise, decode.

Pipelines stay as diffusers wrote them; they are called with latents in and latents out, so that encoder, UNet and
decoder can each be run densely or thinly and be timed apart. Pictures are float tensors [P, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Any, cast

import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from sparsedit.control import Control, controlled
from sparsedit.errors import InputError, ModelError
from sparsedit.noise import draw
from sparsedit.schedule import Schedule
from sparsedit.settings import TASKS
from sparsedit.skipping import skipping
from sparsedit.sparse import SitePyramid

OnStep = Callable[[int, int], None]
Renew = Callable[[int, Tensor], Tensor]
"""From the number of a step and the latents it left to those that the next step takes."""


@dataclass(frozen=True)
class Text:
    """Embeddings of P prompts and their negatives, by the names the pipeline's call takes them under."""

    embeddings: dict[str, Tensor]


class Stages:
    """A pipeline taken apart into its stages. Text embeddings are computed once per prompt and kept."""

    _placed: tuple[tuple[Any, ...], torch.device] | None = None

    def __init__(self, pipe: DiffusionPipeline) -> None:
        if not all(hasattr(pipe, part) for part in ("vae", "unet", "scheduler", "encode_prompt")):
            raise ModelError(f"{type(pipe).__name__} cannot be edited with: it needs a UNet, a VAE and a text encoder")
        self.pipe = cast(Any, pipe)
        self.image_to_image: Any = AutoPipelineForImage2Image.from_pipe(pipe, controlnet=None)
        self.inpainting: Any = AutoPipelineForInpainting.from_pipe(pipe, controlnet=None)
        for derived in (self.image_to_image, self.inpainting):
            derived.set_progress_bar_config(disable=True)
        self.vae: Any = self.pipe.vae
        self.unet: nn.Module = self.pipe.unet
        self.controlnet: nn.Module | None = getattr(pipe, "controlnet", None)
        self.scale = int(self.pipe.vae_scale_factor)
        self._texts: dict[tuple[str, str, bool], tuple[Tensor | None, ...]] = {}
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast", False):
            self.vae.to(torch.float32)  # SDXL's VAE overflows in float16

    @cached_property
    def text_to_image(self) -> Any:
        pipe = AutoPipelineForText2Image.from_pipe(self.pipe, controlnet=None)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def device(self) -> torch.device:
        """Where the models run. Asking a pipeline looks at every module, so it is asked when its UNet has moved or was
        offloaded since."""
        hooks = [name in vars(self.unet) for name in ("_hf_hook", "_diffusers_hook")]
        place = (next(self.unet.parameters()).device, *hooks)
        if self._placed is None or self._placed[0] != place:
            self._placed = place, torch.device(self.pipe._execution_device)
        return self._placed[1]

    @property
    def channels(self) -> int:
        """Input channels of the UNet: 4, or 9 for an inpainting model."""
        return int(self.pipe.unet.config.in_channels)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be done with it: a model that is told the hole can do nothing else, a refiner starts no picture."""
        if self.channels != 4:
            return ("inpaint",)
        return ("sdedit", "inpaint") if self.pipe.config.get("requires_aesthetics_score") else TASKS

    @property
    def divisible(self) -> bool:
        """Whether the schedule can be left to another model midway."""
        return "denoising_start" in inspect.signature(self.image_to_image.__call__).parameters

    def guided(self, schedule: Schedule) -> bool:
        """Whether a call has two rows a picture. A UNet that takes the scale as an embedding (LCM) needs only one."""
        return schedule.guidance > 1 and self.pipe.unet.config.time_cond_proj_dim is None

    def calls(self, schedule: Schedule) -> int:
        """How often the UNet is called."""
        return schedule.calls_of(self.pipe.scheduler)

    def timesteps(self, schedule: Schedule) -> list[float]:
        """The timesteps of all steps that are run, `kept` or not."""
        return schedule.timesteps_of(self.pipe.scheduler)

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError for pictures whose sides the VAE cannot divide; sizes are never snapped silently."""
        if height % self.scale or width % self.scale:
            raise InputError(
                f"a picture of {width}x{height} cannot be edited with this model: "
                f"both sides must be multiples of {self.scale}"
            )

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.scale, width // self.scale

    def reach(self, sites: SitePyramid) -> float:
        """Share of active sites, 0 to 1, averaged over the UNet's resolutions: what a thin call's work goes by."""
        height, width = self.latent_size(*sites.size)
        halvings = range(len(self.pipe.unet.config.block_out_channels))
        return mean(sites.fraction((-(-height // 2**n), -(-width // 2**n))) for n in halvings)

    def text(self, prompts: Sequence[str], negative: str, schedule: Schedule) -> Text:
        """Embeddings of the prompts, in order; each prompt's is computed on its own, once."""
        rows = [self._text(prompt, negative, self.guided(schedule)) for prompt in prompts]
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        columns = zip(names, zip(*rows, strict=True), strict=False)
        return Text({name: torch.cat(column) for name, column in columns if column[0] is not None})

    def knows_text(self, prompt: str, negative: str, schedule: Schedule) -> bool:
        """Whether the embeddings of a prompt are at hand already."""
        return (prompt, negative, self.guided(schedule)) in self._texts

    def texts_per_prompt(self, negative: str, schedule: Schedule) -> int:
        """How many texts a prompt takes to encode: itself, and its negative where guidance needs one."""
        zeros = self.pipe.config.get("force_zeros_for_empty_prompt", False) and not negative
        return 2 if self.guided(schedule) and not zeros else 1

    def forget_texts(self) -> None:
        """Encode every prompt anew from here on."""
        self._texts.clear()

    def encode(self, pictures: Tensor, noise: list[torch.Generator]) -> Tensor:
        """Pictures [P, 3, H, W] -> scaled latents [P, 4, H/8, W/8], each drawn from its posterior with its noise."""
        encoded = self.vae.encode(pictures.to(self.device, self.vae.dtype))
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            latents = posterior.mean + posterior.std * draw(posterior.mean, noise)
        else:
            latents = encoded.latents
        mean, std = self._latent_statistics(latents)
        return ((latents - mean) * self.vae.config.scaling_factor / std).to(self.unet.dtype)

    def denoise(
        self,
        latents: Tensor,
        text: Text,
        schedule: Schedule,
        noise: list[torch.Generator],
        on_step: OnStep,
        control: Control | None = None,
    ) -> Tensor:
        """SDEdit's loop: noise the latents [P, 4, h, w] to `strength`, then denoise them (stock img2img).

        With `since` in the schedule they are taken to be as noisy as they are at its beginning.
        """
        parts = {"denoising_start": schedule.since, "denoising_end": schedule.until}
        said = {name: share for name, share in parts.items() if share is not None}
        inputs: dict[str, Any] = said | {"image": latents, "strength": schedule.strength}
        return self._run(self.image_to_image, text, schedule, noise, on_step, control, **inputs)

    def denoise_masked(
        self,
        latents: Tensor,
        holes: Tensor,
        masked_latents: Tensor | None,
        text: Text,
        schedule: Schedule,
        noise: list[torch.Generator],
        on_step: OnStep,
        control: Control | None = None,
    ) -> Tensor:
        """Inpainting's loop (stock): `holes` [P, 1, H, W], 1 where the picture is made anew.

        With a 4-channel UNet every step ends by blending the known latents back in; a 9-channel one is told the
        hole and `masked_latents` instead. A 4-channel one never reads these, but without them some pipelines would
        mask the pixels of what they take for a picture.
        """
        height, width = holes.shape[-2:]
        masked_latents = latents if masked_latents is None else masked_latents
        return self._run(
            self.inpainting, text, schedule, noise, on_step, control,
            image=latents, mask_image=holes, masked_image_latents=masked_latents, height=height, width=width,
            strength=schedule.strength,
        )  # fmt: skip

    def sample(
        self,
        latents: Tensor,
        text: Text,
        schedule: Schedule,
        noise: list[torch.Generator],
        on_step: OnStep,
        control: Control | None = None,
        renew: Renew | None = None,
    ) -> Tensor:
        """The loop of stock text-to-image, from latents [P, 4, h, w] as noisy as the schedule's first step takes them.

        What a step leaves is handed to `renew`, where there is one. Raises SettingsError where a strength below 1 asks
        for a part of a schedule whose steps cannot be left out.
        """
        height, width = (side * self.scale for side in latents.shape[-2:])
        # The pipeline multiplies by the scale what it is given.
        return self._run(
            self.text_to_image, text, schedule.from_noise(), noise, on_step, control, renew,
            latents=latents / self.noise_scale(schedule), height=height, width=width,
        )  # fmt: skip

    def noise_scale(self, schedule: Schedule) -> float:
        """What the first step's latents are when they are noise alone, over noise of variance 1."""
        pipe, schedule = self.text_to_image, schedule.from_noise()
        with self._shortened(pipe, schedule):
            pipe.scheduler.set_timesteps(schedule.steps)
            return float(pipe.scheduler.init_noise_sigma)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [P, 4, h, w] -> pictures [P, 3, H, W] in float32, clamped to [-1, 1]."""
        latents = latents.to(self.decoder_dtype)
        mean, std = self._latent_statistics(latents)
        latents = latents * std / self.vae.config.scaling_factor + mean
        decoded: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return decoded.float().clamp(-1, 1)

    @property
    def decoder_dtype(self) -> torch.dtype:
        return next(self.vae.decoder.parameters()).dtype

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Let the VAE decode, and only decode, in another precision."""
        for part in (self.vae.decoder, getattr(self.vae, "post_quant_conv", None)):
            if part is not None:
                part.to(dtype)

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

    def _run(
        self,
        pipe: Any,
        text: Text,
        schedule: Schedule,
        noise: list[torch.Generator],
        on_step: OnStep,
        control: Control | None,
        renew: Renew | None = None,
        **inputs: Any,
    ) -> Tensor:
        calls = self.calls(schedule)

        def stepped(_pipe: object, index: int, _timestep: object, state: dict[str, Any]) -> dict[str, Any]:
            on_step(index + 1, calls)
            return state if renew is None else state | {"latents": renew(index, state["latents"])}

        with self._controlled(control, schedule), self._shortened(pipe, schedule):
            latents: Tensor = pipe(
                **text.embeddings,
                **inputs,
                num_inference_steps=schedule.steps,
                guidance_scale=schedule.guidance,
                generator=noise,
                output_type="latent",
                callback_on_step_end=stepped,
            ).images
        refuse_not_finite(latents)
        return latents

    def _shortened(self, pipe: Any, schedule: Schedule) -> AbstractContextManager[None]:
        if schedule.kept is None:
            return nullcontext()
        return skipping(pipe, schedule.steps - schedule.calls, schedule.kept)

    def _controlled(self, control: Control | None, schedule: Schedule) -> AbstractContextManager[None]:
        if control is None or self.controlnet is None:
            return nullcontext()
        return controlled(self.unet, self.controlnet, control, 2 if self.guided(schedule) else 1)


def refuse_not_finite(latents: Tensor) -> None:
    """Raise ModelError for latents with an infinity or no number in them."""
    if not bool(latents.isfinite().all()):
        raise ModelError(
            f"denoising in {str(latents.dtype).removeprefix('torch.')} led to latents that are not numbers; "
            "use --dtype bfloat16 or float32, or another --vae"
        )
