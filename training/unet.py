"""Train the UNet and both text encoders on cached latents.

    python -m training.unet --start sparsedit/models/demo --minutes 70
    python -m training.unet                                          from first weights

A run that was killed goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sparsedit.suites.scenes.scene import Scene, sample_scene
from training.arguments import add_run, command, crew_size, device_of, run_of
from training.captions import Tokens, full_caption, tokenize, training_caption
from training.diffusion import LEVELS, Batch, Diffusion, Draw, even_levels, stratified_levels
from training.fused import fuse
from training.latents import Latents, read_latents
from training.loop import Chance, Clock, Loop, Run
from training.models import Denoiser, load_denoiser, load_tokenizers, new_denoiser
from training.pictures import object_weights
from training.settings import DEMO, HELD_OUT, SQUARE, WIDE, ObjectWeights, UnetSettings
from training.workers import Crew, run_crew

_VALIDATION_BATCH = 32


class UnetTask:
    """Latents and captions of random scenes; in a share of the steps scenes twice as wide, half as many."""

    levels = LEVELS  # those below are learnt

    def __init__(self, settings: UnetSettings, models: Denoiser, base: Path, device: torch.device) -> None:
        self.settings, self.models = settings, models
        self.tokenizers: tuple[CLIPTokenizer, CLIPTokenizer] = load_tokenizers(base)
        self.square, self.wide = read_latents(SQUARE, base), read_latents(WIDE, base)
        self.held_out = read_latents(HELD_OUT, base)
        for model in models.parts().values():
            model.to(device).eval()
        if device.type == "cpu":
            fuse(models.unet)
            for text_encoder in (models.text_encoder, models.text_encoder_2):
                text_encoder.set_attn_implementation("eager")  # as in `fuse`
        self.diffusion = Diffusion(models, settings.snr_ceiling, device)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return self.models.named_parameters()

    def more_state(self) -> list[Tensor]:
        return []

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        wide = chance.numpy.random() < self.settings.wide_steps
        count = self.settings.schedule.batch // (2 if wide else 1)
        batch = self._random_batch(self.wide if wide else self.square, count, chance.numpy)
        draw = Draw(
            noise=torch.randn(batch.latents.shape, generator=chance.torch),
            levels=stratified_levels(count, chance.torch, self.levels),
            given=(torch.rand(count, generator=chance.torch) >= self.settings.unconditional).float(),
        )
        return self.diffusion.loss(batch, draw), count

    def _random_batch(self, latents: Latents, count: int, rng: np.random.Generator) -> Batch:
        chosen = rng.integers(len(latents.seeds), size=count)
        scenes = [sample_scene(int(seed), latents.width) for seed in latents.seeds[chosen]]
        captions = [training_caption(scene, rng, self.settings.captions) for scene in scenes]
        return self._batch(latents.values[chosen], scenes, captions)

    def _batch(self, values: npt.NDArray[np.float16], scenes: list[Scene], captions: list[str]) -> Batch:
        return scene_batch(values, scenes, tokenize(captions, self.tokenizers), self.settings.weights)

    def validate(self) -> dict[str, float]:
        return self.held_out_errors(self.diffusion)

    def held_out_errors(self, diffusion: Diffusion) -> dict[str, float]:
        """Errors of v on held-out scenes at evenly spread levels with one noise: with the true caption, on the
        objects alone with it, and with no caption."""
        latents = self.held_out
        count = len(latents.seeds)
        scenes = [sample_scene(int(seed)) for seed in latents.seeds]
        captions = [full_caption(scene, scene.seed) for scene in scenes]
        noise = torch.randn(latents.values.shape, generator=torch.Generator().manual_seed(0))
        levels = even_levels(count, self.levels)
        true: list[Tensor] = []
        none: list[Tensor] = []
        objects: list[Tensor] = []
        for start in range(0, count, _VALIDATION_BATCH):
            part = slice(start, start + _VALIDATION_BATCH)
            batch = self._batch(latents.values[part], scenes[part], captions[part])
            given = torch.ones(len(batch.latents))
            errors = diffusion.squared_errors(batch, Draw(noise[part], levels[part], given)).cpu()
            true.append(errors)
            objects.append(errors[(batch.weights > 1).expand_as(errors)])
            bare = Draw(noise[part], levels[part], 0 * given)
            none.append(diffusion.squared_errors(batch, bare).cpu())
        scores = {"true": torch.cat(true), "objects": torch.cat(objects), "none": torch.cat(none)}
        return {name: errors.mean().item() for name, errors in scores.items()}


def scene_batch(values: npt.NDArray[np.float16], scenes: list[Scene], tokens: Tokens, weights: ObjectWeights) -> Batch:
    """Latents [N, 4, h, w] of scenes with their captions; objects count more in the loss."""
    maps = np.stack([object_weights(scene, weights) for scene in scenes])
    return Batch(torch.from_numpy(values).float(), tokens, torch.from_numpy(maps).unsqueeze(1))


def train(crew: Crew, run: Run, start: Path | None, base: Path, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    models = new_denoiser(*load_tokenizers(base)) if start is None else load_denoiser(start)
    Loop(UnetTask(run.settings, models, base, device), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.unet", description=__doc__)
    parser.add_argument("--start", type=Path, help="pipeline whose UNet and text encoders to go on from")
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline with autoencoder and tokenizers")
    add_run(parser, UnetSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    run = replace(run_of(arguments, "unet", UnetSettings()), settled=arguments.start is not None)
    run_crew(crew_size(arguments, device), train, run, arguments.start, arguments.base, device)


if __name__ == "__main__":
    main()
