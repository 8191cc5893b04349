"""The denoising problem: noise levels, what is predicted, what a caption is to the UNet, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from training.captions import Tokens
from training.models import Denoiser

LEVELS = 1000


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


def stratified_levels(count: int, generator: torch.Generator) -> Tensor:
    """One random level from each of `count` equal ranges, in random order: quieter than independent draws."""
    places = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    return (places / count * LEVELS).long().clamp(max=LEVELS - 1)


class Diffusion:
    """The loss of a denoiser, in bf16 autocast on its device."""

    def __init__(self, models: Denoiser, snr_ceiling: float, device: torch.device) -> None:
        self.models, self.device = models, device
        shares = signal_shares().to(device)
        self.signal, self.noise = shares.sqrt(), (1 - shares).sqrt()
        # min(1, ceiling / SNR): the cleanest levels, where v is nearly the noise, count less.
        # Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023.
        self.level_weights = (snr_ceiling * (1 - shares) / shares.clamp(min=1e-8)).clamp(max=1)

    def squared_errors(self, batch: Batch, draw: Draw) -> Tensor:
        """Squared errors [N, 4, h, w] of the predicted v = signal * noise - noise share * latents.

        Salimans & Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022.
        """
        latents, noise = batch.latents.to(self.device), draw.noise.to(self.device)
        levels = draw.levels.to(self.device)
        signal = self.signal[levels][:, None, None, None]
        share = self.noise[levels][:, None, None, None]
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            predicted = self._predict(signal * latents + share * noise, levels, batch.tokens, draw.given)
        return (predicted.float() - (signal * noise - share * latents)).pow(2)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """The mean weighted error."""
        errors = (self.squared_errors(batch, draw) * batch.weights.to(self.device)).mean((1, 2, 3))
        return (errors * self.level_weights[draw.levels.to(self.device)]).mean()

    def _predict(self, noisy: Tensor, levels: Tensor, tokens: Tokens, given: Tensor) -> Tensor:
        context, pooled = self._conditions(tokens, given.to(self.device))
        height, width = (8 * side for side in noisy.shape[2:])
        # SDXL's micro-conditioning: original size, crop, target size.
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=self.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self.models.unet(noisy, levels, context, added_cond_kwargs=added).sample

    def _conditions(self, tokens: Tokens, given: Tensor) -> tuple[Tensor, Tensor]:
        """States [N, 48, 128] and pooled text [N, 64] as SDXL takes them: without a caption they are zeros."""
        first = self.models.text_encoder(tokens.first.to(self.device), output_hidden_states=True)
        second = self.models.text_encoder_2(tokens.second.to(self.device), output_hidden_states=True)
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return context * given[:, None, None], second.text_embeds * given[:, None]
