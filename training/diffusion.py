"""The denoising problem: noise levels, what is predicted, what a caption is to the UNet, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from training.captions import Tokens
from training.models import Denoiser

LEVELS = 1000

Unet = Callable[..., Any]  # of noisy latents, levels and context, and by name of what SDXL adds


def signal_shares() -> Tensor:
    """The signal's share of variance at every level [1000], SDXL's schedule rescaled to 0 at the last one.

    Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, LEVELS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0).float()


@dataclass(frozen=True)
class Batch:
    """Latents [N, 4, h, w], their captions, and loss weights [N, 1, h, w]."""

    latents: Tensor
    tokens: Tokens
    weights: Tensor


@dataclass(frozen=True)
class Draw:
    """What is random about one look at a batch: noise like the latents, levels [N], and 1 or 0 [N] for
    whether the caption is given."""

    noise: Tensor
    levels: Tensor
    given: Tensor


@dataclass(frozen=True)
class Conditions:
    """What captions are to a UNet: states [N, 48, width] and pooled text [N, 64], zeros where `given` [N] is 0
    and not 1, for want of a caption."""

    states: Tensor
    pooled: Tensor
    given: Tensor

    def part(self, rows: slice) -> Conditions:
        return Conditions(self.states[rows], self.pooled[rows], self.given[rows])


def stratified_levels(count: int, generator: torch.Generator, levels: int = LEVELS) -> Tensor:
    """One random level below `levels` from each of `count` equal ranges, in random order: quieter than
    independent draws."""
    places = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    return (places / count * levels).long().clamp(max=levels - 1)


def even_levels(count: int, levels: int = LEVELS) -> Tensor:
    """The levels in the middle of `count` equal ranges below `levels`, ascending."""
    return ((torch.arange(count) + 0.5) / count * levels).long()


class Diffusion:
    """The loss of a denoiser, in bf16 autocast on its device."""

    def __init__(self, models: Denoiser, snr_ceiling: float, device: torch.device) -> None:
        self.models, self.device = models, device
        shares = signal_shares().to(device)
        self.signal, self.noise = shares.sqrt(), (1 - shares).sqrt()
        # min(1, ceiling / SNR): the cleanest levels, where v is nearly the noise, count less.
        # Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023.
        self.level_weights = (snr_ceiling * (1 - shares) / shares.clamp(min=1e-8)).clamp(max=1)

    def squared_errors(self, batch: Batch, draw: Draw, unet: Unet | None = None) -> Tensor:
        """Squared errors [N, 4, h, w] of the predicted v = signal * noise - noise share * latents.

        Salimans & Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022. Where `unet` is given,
        it predicts in place of the models' own, and is called as that is.
        """
        latents, noise = batch.latents.to(self.device), draw.noise.to(self.device)
        levels = draw.levels.to(self.device)
        signal, share = self.shares(levels)
        conditions = self.conditions(batch.tokens, draw.given)
        predicted = self.predict(signal * latents + share * noise, levels, conditions, unet)
        return (predicted - (signal * noise - share * latents)).pow(2)

    def loss(self, batch: Batch, draw: Draw, unet: Unet | None = None) -> Tensor:
        """The mean weighted error; `unet` as in `squared_errors`."""
        errors = (self.squared_errors(batch, draw, unet) * batch.weights.to(self.device)).mean((1, 2, 3))
        return (errors * self.level_weights[draw.levels.to(self.device)]).mean()

    def shares(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """What latents and noise are multiplied with at levels [N], [N, 1, 1, 1] each."""
        return self.signal[levels][:, None, None, None], self.noise[levels][:, None, None, None]

    def conditions(self, tokens: Tokens, given: Tensor) -> Conditions:
        """Captions as SDXL takes them: the states of both text encoders, side by side."""
        given = given.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            first = self.models.text_encoder(tokens.first.to(self.device), output_hidden_states=True)
            second = self.models.text_encoder_2(tokens.second.to(self.device), output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return Conditions(states * given[:, None, None], second.text_embeds * given[:, None], given)

    def predict(self, noisy: Tensor, levels: Tensor, conditions: Conditions, unet: Unet | None = None) -> Tensor:
        """v in fp32 for noisy latents [N, 4, h, w] at levels [N]; `unet` as in `squared_errors`."""
        added = {"text_embeds": conditions.pooled, "time_ids": self._time_ids(noisy, conditions.given)}
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            predicted: Tensor = (unet or self.models.unet)(
                noisy, levels, conditions.states, added_cond_kwargs=added
            ).sample
        return predicted.float()

    def _time_ids(self, noisy: Tensor, given: Tensor) -> Tensor:
        """SDXL's micro-conditioning [N, 6]: original size, crop, target size."""
        height, width = (8 * side for side in noisy.shape[2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=self.device)
        return sizes.expand(len(given), -1)
