"""Train the autoencoder on crops of rendered pictures, and write it with normalised latents.

python -m training.vae --to training/work/model
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsedit.metrics.pixels import psnr
from sparsedit.metrics.ssim import ssim_map
from sparsedit.suites.scenes.scene import sample_scene
from training import checkpoint
from training.arguments import add_run, command, crew_size, device_of, run_of
from training.details import clear_nights, detail_weights
from training.fused import fuse
from training.loop import Chance, Clock, Loop, Run
from training.models import load_autoencoder, new_autoencoder
from training.parts import pick, read_parts
from training.pictures import LATENT_PIXELS, Picture, folder_of, to_pictures, to_tensor
from training.settings import HELD_OUT, PICTURES, SCALING_FACTOR, VaeSettings
from training.workers import Crew, run_crew

_VALIDATION_BATCH = 8
_NORMALISED_ON = 256  # pictures


class VaeTask:
    """Crops, half of them mirrored; a linear map from latents to colours is trained beside the autoencoder."""

    def __init__(self, settings: VaeSettings, vae: Any, device: torch.device, anchor: Any = None) -> None:
        self.settings, self.vae, self.device, self.anchor = settings, vae.to(device), device, anchor
        self.colours = nn.Conv2d(4, 3, 1).to(device)
        if device.type == "cpu":
            fuse(vae)
        seeds, self.pictures = read_parts(folder_of(PICTURES))
        self.scenes = [sample_scene(int(seed)) for seed in seeds]
        self.nights = clear_nights(self.scenes)
        _, held_out = read_parts(folder_of(HELD_OUT))
        self.held_out = np.concatenate(held_out)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        # As an embedding it is left to AdamW.
        colours = [(f"embedded_colours.{name}", value) for name, value in self.colours.named_parameters()]
        return [*self.vae.named_parameters(), *colours]

    def more_state(self) -> list[Tensor]:
        return []

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        images, weights = (each.to(self.device) for each in self._crops(chance.numpy))
        count, _, height, width = images.shape
        shape = (count, 4, height // LATENT_PIXELS, width // LATENT_PIXELS)
        noise = torch.randn(shape, generator=chance.torch).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            mean, log_variance = self.vae.quant_conv(self.vae.encoder(images)).float().chunk(2, 1)
            log_variance = log_variance.clamp(-12, 4)
            sample = mean + (log_variance / 2).exp() * noise
            error = self.vae.decoder(self.vae.post_quant_conv(sample)).float() - images
            colour_error = self.colours(mean).float() - F.avg_pool2d(images, LATENT_PIXELS)
        kl = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()
        settings = self.settings
        loss = reconstruction_loss(error, settings.gradient, settings.half_scale, settings.quarter_scale)
        loss = loss + settings.kl * kl + settings.colour * colour_error.abs().mean()
        loss = loss + (weights * error.abs()).mean()
        if self.anchor is not None:
            with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16):
                was = self.anchor.quant_conv(self.anchor.encoder(images)).float().chunk(2, 1)[0]
            change = (mean - was) * SCALING_FACTOR
            loss = loss + settings.anchor * change.square().mean()
        return loss, count

    def _crops(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crops [N, 3, H, W] of pictures, and how much more their pixels weigh [N, 1, H, W]."""
        settings, size = self.settings, self.settings.crop
        batch = settings.schedule.batch
        chosen = rng.integers(PICTURES.count, size=batch)
        night = rng.random(batch) < settings.nights
        chosen = np.where(night, self.nights[rng.integers(len(self.nights), size=batch)], chosen)
        crops, weights = [], []
        for index, dark, picture in zip(chosen, night, pick(self.pictures, chosen), strict=True):
            more = detail_weights(self.scenes[index], picture, settings.details)
            places = (np.array(picture.shape[:2]) - size) // LATENT_PIXELS + 1
            top, left = rng.integers(places) * LATENT_PIXELS
            top = top // 4 // LATENT_PIXELS * LATENT_PIXELS if dark else top
            across = slice(None, None, -1 if rng.random() < 0.5 else 1)
            crops.append(picture[top : top + size, left : left + size][:, across])
            weights.append(more[top : top + size, left : left + size][:, across])
        return to_tensor(np.stack(crops)), torch.from_numpy(np.stack(weights)).unsqueeze(1)

    def validate(self) -> dict[str, float]:
        """Mean PSNR in dB and SSIM of reconstructions of held-out pictures."""
        made = []
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            images = to_tensor(self.held_out[start : start + _VALIDATION_BATCH]).to(self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                mean = self.vae.quant_conv(self.vae.encoder(images)).chunk(2, 1)[0]
                made.append(to_pictures(self.vae.decoder(self.vae.post_quant_conv(mean))))
        return picture_scores(np.concatenate(made), self.held_out)


def reconstruction_loss(error: Tensor, gradient: float, half: float, quarter: float = 0.0) -> Tensor:
    """L1 of errors [N, 3, H, W] and, weighted, of their gradients and of their means over 2x2 and 4x4 pixels."""
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    loss = error.abs().mean() + gradient * (across + down)
    for weight, size in ((half, 2), (quarter, 4)):
        if weight:
            loss = loss + weight * F.avg_pool2d(error, size).abs().mean()
    return loss


def picture_scores(made: Picture, true: Picture) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of pictures uint8 [N, H, W, 3]."""
    pairs = [(a.astype(np.float64) / 255, b.astype(np.float64) / 255) for a, b in zip(made, true, strict=True)]
    decibels = [psnr(a, b) for a, b in pairs]
    return {
        "psnr": float(np.mean([value for value in decibels if value is not None])),
        "ssim": float(np.mean([ssim_map(a, b).mean() for a, b in pairs])),
    }


@torch.no_grad()
def normalise(vae: Any, images: Tensor) -> None:
    """Fold the latents' mean and deviation per channel, measured on images [N, 3, H, W], into the 1x1 convs
    around them: with SDXL's scaling factor latents are then of zero mean and unit deviation."""
    parts = [vae.quant_conv(vae.encoder(part))[:, :4] for part in images.split(_VALIDATION_BATCH)]
    latents = torch.cat(parts)
    mean, scale = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * SCALING_FACTOR
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= scale[None, :, None, None]
    into.weight[:4] /= scale[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / scale
    into.bias[4:] -= 2 * scale.log()


def write(run: Run, folder: Path) -> None:
    """Write the averaged autoencoder of a run's checkpoint, normalised, to a pipeline's folder."""
    vae: Any = new_autoencoder().eval()
    average = checkpoint.load(run.checkpoint)["average"]
    vae.load_state_dict({name: value for name, value in average.items() if not name.startswith("embedded_")})
    _, pictures = read_parts(folder_of(PICTURES))
    normalise(vae, to_tensor(pick(pictures, np.arange(_NORMALISED_ON))))
    # The fp16 decoder overflows: pipelines are told to decode in fp32.
    vae.register_to_config(force_upcast=True)
    vae.save_pretrained(folder / "vae", safe_serialization=True)


def train(crew: Crew, run: Run, start: Path | None, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    vae = new_autoencoder() if start is None else load_autoencoder(start)
    anchor = None if start is None else load_autoencoder(start).to(device).eval().requires_grad_(False)
    Loop(VaeTask(run.settings, vae, device, anchor), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.vae", description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="pipeline's folder to write the autoencoder to")
    parser.add_argument("--start", type=Path, help="pipeline whose autoencoder to go on from")
    add_run(parser, VaeSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    run = replace(run_of(arguments, "vae", VaeSettings()), settled=arguments.start is not None)
    run_crew(crew_size(arguments, device), train, run, arguments.start, device)
    write(run, arguments.to)


if __name__ == "__main__":
    main()
