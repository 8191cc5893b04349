"""Finetune the decoder on whole pictures and night skies from frozen latents, against a patch discriminator.

    python -m training.decoder --stars --batch 2 --rate 0.004           stars first, at the price of all else
    python -m training.decoder --start training/work/decoder-stars.pt   brings the rest back

L1 alone paints the mean of what it cannot know: stars and window frames vanish. The encoder stays, so cached
latents and the UNet fit the new decoder as they did the old. Of a star the latents hold a faint trace: the skies of
nights are shown more often, and weigh more where there are stars, until the decoder has learnt to tell it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsedit.suites.scenes.scene import sample_scene
from training.arguments import add_run, command, crew_size, device_of, run_of
from training.details import clear_nights, detail_weights
from training.export import assign_average
from training.fused import fuse
from training.latents import read_latents
from training.loop import Chance, Clock, Loop, Run
from training.models import load_autoencoder
from training.muon import Adam
from training.parts import pick, read_parts
from training.pictures import LATENT_PIXELS, folder_of, to_pictures, to_tensor
from training.settings import DEMO, HELD_OUT, LEARN_STARS, PICTURES, DecoderSettings
from training.vae import picture_scores, reconstruction_loss
from training.workers import Crew, run_crew

_VALIDATION_BATCH = 8
_STRONGEST = 100.0


class Discriminator(nn.Sequential):
    """Logits [N, 1, H / 8, W / 8] of images [N, 3, H, W]: how real each patch looks.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 4, 2, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
            before = width
        super().__init__(*layers, nn.Conv2d(before, 1, 3, 1, 1))


@dataclass(frozen=True)
class Part:
    """Images [N, 3, H, W] as they are and as they were made, and how much more their pixels weigh [N, 1, H, W]."""

    real: Tensor
    weights: Tensor
    made: Tensor


class DecoderTask:
    """Pictures and their latents with a little noise; the discriminator learns on the same batches."""

    def __init__(self, settings: DecoderSettings, base: Path, device: torch.device, start: Path | None = None) -> None:
        self.settings, self.device = settings, device
        self.vae = load_autoencoder(base).to(device)
        if start is not None:
            assign_average(dict(self.vae.named_parameters()), start)
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)
        if device.type == "cpu":
            fuse(self.vae)
        self.discriminator = Discriminator().to(device).to(memory_format=torch.channels_last)
        self.judge_optimizer = Adam(list(self.discriminator.parameters()), betas=(0.5, 0.98))
        self.latents, self.held_out = read_latents(PICTURES, base), read_latents(HELD_OUT, base)
        seeds, self.pictures = read_parts(folder_of(PICTURES))
        self.scenes = [sample_scene(int(seed)) for seed in seeds]
        self.nights = clear_nights(self.scenes)
        _, held_out = read_parts(folder_of(HELD_OUT))
        self.held_out_pictures = np.concatenate(held_out)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, value) for name, value in self.vae.named_parameters() if value.requires_grad]

    def more_state(self) -> list[Tensor]:
        return [*self.discriminator.parameters(), *self.judge_optimizer.state()]

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        settings = self.settings
        whole = chance.numpy.integers(len(self.latents.seeds), size=settings.schedule.batch)
        skies = self.nights[chance.numpy.integers(len(self.nights), size=settings.skies)]
        parts = [self._part(whole, None, chance), self._part(skies, settings.sky, chance)]
        self._train_discriminator([part.real for part in parts], [part.made.detach() for part in parts])
        loss = torch.zeros(())
        for part in parts:
            error = part.made - part.real
            loss = loss + reconstruction_loss(error, settings.gradient, settings.half_scale)
            loss = loss + (part.weights * error.abs()).mean()
        if step >= settings.head_start:
            loss = loss + self._adversarial(loss, [part.made for part in parts])
        return loss, len(whole)

    def _part(self, chosen: npt.NDArray[np.int64], rows: int | None, chance: Chance) -> Part:
        """The first `rows` of pixels of chosen pictures, all of them if None, and the same decoded."""
        pictures = pick(self.pictures, chosen)
        details = self.settings.details
        more = [detail_weights(self.scenes[i], each, details) for i, each in zip(chosen, pictures, strict=True)]
        latents = torch.from_numpy(self.latents.values[chosen]).float()
        latents = latents[:, :, : None if rows is None else rows // LATENT_PIXELS]
        strength = self.settings.latent_noise * torch.rand(len(latents), 1, 1, 1, generator=chance.torch)
        noise = torch.randn(latents.shape, generator=chance.torch)
        return Part(
            real=to_tensor(pictures[:, :rows]).to(self.device),
            weights=torch.from_numpy(np.stack(more)[:, None, :rows]).to(self.device),
            made=self._decode((latents + strength * noise).to(self.device)),
        )

    def _decode(self, latents: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            hidden = self.vae.post_quant_conv(latents / self.vae.config.scaling_factor)
            images: Tensor = self.vae.decoder(hidden)
        return images.float()

    def _judge(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.discriminator(images)
        return logits.float()

    def _train_discriminator(self, real: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """One step of the hinge loss (Lim & Ye, "Geometric GAN", 2017)."""
        self.discriminator.requires_grad_(True)
        for true, false in zip(real, made, strict=True):
            (F.relu(1 - self._judge(true)).mean() + F.relu(1 + self._judge(false)).mean()).backward()
        self.judge_optimizer.step(self.settings.discriminator_rate)
        self.discriminator.requires_grad_(False)

    def _adversarial(self, others: Tensor, made: Sequence[Tensor]) -> Tensor:
        """The discriminator's pull, scaled so that at the last layer its gradient is a set share of the others'.

        Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021.
        """
        pull = -torch.stack([self._judge(each).mean() for each in made]).sum()
        last = self.vae.decoder.conv_out.weight
        (of_others,) = torch.autograd.grad(others, last, retain_graph=True)
        (of_pull,) = torch.autograd.grad(pull, last, retain_graph=True)
        weight = (of_others.norm() / (of_pull.norm() + 1e-6)).clamp(max=_STRONGEST)
        return self.settings.adversarial * weight * pull

    def validate(self) -> dict[str, float]:
        """Mean PSNR in dB and SSIM of held-out pictures decoded from their latents."""
        latents = torch.from_numpy(self.held_out.values).float()
        made = [to_pictures(self._decode(part.to(self.device))) for part in latents.split(_VALIDATION_BATCH)]
        return picture_scores(np.concatenate(made), self.held_out_pictures)


def train(crew: Crew, run: Run, base: Path, start: Path | None, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    Loop(DecoderTask(run.settings, base, device, start), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.decoder", description=__doc__)
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline whose decoder to finetune")
    parser.add_argument("--start", type=Path, help="checkpoint of a finetune to go on from (default: none)")
    parser.add_argument("--stars", action="store_true", help="learn stars first; the run is called decoder-stars")
    add_run(parser, DecoderSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    name, settings = ("decoder-stars", LEARN_STARS) if arguments.stars else ("decoder", DecoderSettings())
    run = replace(run_of(arguments, name, settings), settled=True)
    run_crew(crew_size(arguments, device), train, run, arguments.base, arguments.start, device)


if __name__ == "__main__":
    main()
