"""Distil the autoencoder into a tiny one, for decoding and encoding at a fraction of the cost.

    python -m training.tiny

The decoder learns from frozen latents both the pictures they came from and what the autoencoder makes of them:
what cannot be known from latents is settled as it settles it. The encoder learns its latents. They are the
scaled ones that a pipeline hands on, so that the tiny autoencoder's own scale is 1 and it takes the other's place.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from training.arguments import add_run, command, crew_size, device_of, run_of
from training.export import export_model
from training.fused import fuse
from training.hashes import digest
from training.latents import read_latents
from training.loop import Chance, Clock, Loop, Run
from training.models import load_autoencoder, part_of
from training.parts import pick, read_parts
from training.pictures import Picture, folder_of, to_pictures, to_tensor
from training.settings import DEMO, DEMO_TINY, HELD_OUT, PICTURES, TinySettings
from training.vae import picture_scores, reconstruction_loss
from training.workers import Crew, run_crew

_VALIDATION_BATCH = 8


def new_tiny(settings: TinySettings) -> Any:
    """A tiny autoencoder with first weights from torch's global seed."""
    return AutoencoderTiny(
        encoder_block_out_channels=(settings.width,) * 4,
        decoder_block_out_channels=(settings.width,) * 4,
        num_encoder_blocks=settings.encoder_blocks,
        num_decoder_blocks=settings.decoder_blocks,
        scaling_factor=1.0,
    )


class TinyTask:
    """Pictures, their latents, and the autoencoder that is learnt from."""

    def __init__(self, settings: TinySettings, base: Path, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.tiny = new_tiny(settings).to(device).to(memory_format=torch.channels_last)
        self.teacher = load_autoencoder(base).to(device).requires_grad_(False)
        if device.type == "cpu":
            fuse(self.teacher)
        self.latents, self.held_out = read_latents(PICTURES, base), read_latents(HELD_OUT, base)
        _, self.pictures = read_parts(folder_of(PICTURES))
        _, held_out = read_parts(folder_of(HELD_OUT))
        self.held_out_pictures = np.concatenate(held_out)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.tiny.named_parameters())

    def more_state(self) -> list[Tensor]:
        return []

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        settings = self.settings
        chosen = chance.numpy.integers(len(self.latents.seeds), size=settings.schedule.batch)
        pictures = to_tensor(pick(self.pictures, chosen)).to(self.device)
        latents = torch.from_numpy(self.latents.values[chosen]).float()
        strength = settings.latent_noise * torch.rand(len(latents), 1, 1, 1, generator=chance.torch)
        noisy = (latents + strength * torch.randn(latents.shape, generator=chance.torch)).to(self.device)
        latents = latents.to(self.device)
        made = self._decode(noisy)
        loss = (self._encode(pictures) - latents).abs().mean()
        for target, weight in ((pictures, 1 - settings.taught), (self._teach(latents), settings.taught)):
            loss = loss + weight * reconstruction_loss(made - target, settings.gradient, settings.half_scale)
        return loss, len(latents)

    def _encode(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            latents: Tensor = self.tiny.encoder(images)
        return latents.float()

    def _decode(self, latents: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            images: Tensor = self.tiny.decoder(latents.contiguous(memory_format=torch.channels_last))
        return images.float()

    @torch.no_grad()
    def _teach(self, latents: Tensor) -> Tensor:
        """What the autoencoder makes of latents."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            images: Tensor = self.teacher.decode(latents / self.teacher.config.scaling_factor).sample
        return images.float()

    def validate(self) -> dict[str, float]:
        """Mean PSNR in dB and SSIM of held-out pictures: decoded from the autoencoder's latents, and encoded and
        decoded."""
        decoded: list[Picture] = []
        round_trip: list[Picture] = []
        for start in range(0, len(self.held_out_pictures), _VALIDATION_BATCH):
            part = slice(start, start + _VALIDATION_BATCH)
            latents = torch.from_numpy(self.held_out.values[part]).float().to(self.device)
            decoded.append(to_pictures(self._decode(latents)))
            images = to_tensor(self.held_out_pictures[part]).to(self.device)
            round_trip.append(to_pictures(self._decode(self._encode(images))))
        scores = {}
        for name, made in (("decoded", decoded), ("round trip", round_trip)):
            for score, value in picture_scores(np.concatenate(made), self.held_out_pictures).items():
                scores[f"{name} {score}"] = value
        return scores


def train(crew: Crew, run: Run, base: Path, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    Loop(TinyTask(run.settings, base, device), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tiny", description=__doc__)
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline whose autoencoder to distil")
    parser.add_argument("--to", type=Path, default=DEMO_TINY, help="folder to write (default: the embedded model's)")
    add_run(parser, TinySettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    settings = replace(TinySettings(), teacher=digest(part_of(arguments.base, "vae")))
    run = run_of(arguments, "tiny", settings)
    run_crew(crew_size(arguments, device), train, run, arguments.base, device)
    export_model(new_tiny(run.settings), run.checkpoint, arguments.to)


if __name__ == "__main__":
    main()
