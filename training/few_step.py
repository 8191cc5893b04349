"""Distil the demo model into one that needs 1 to 4 steps and no guidance, as a LoRA beside it.

    python -m training.trajectories
    python -m training.few_step

Wherever it stands on a path of its teacher, the LoRA learns to say where the path ends: a consistency model (Song
et al., "Consistency Models", 2023), by regression on ends that are known. The paths are nearly straight, so the
teacher's own sampler, Euler's, takes 4 long steps along them: the same noise ends in nearly the same picture. What
it sees from the second step on is its own doing, so it learns from such inputs too (Kohler et al., "Imagine Flash",
2024).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from training.arguments import add_run, command, crew_size, device_of, run_of
from training.captions import Tokens
from training.diffusion import Conditions, Diffusion, stratified_levels
from training.export import assign_average, replacing
from training.fused import fuse
from training.loop import Chance, Clock, Loop, Run
from training.models import denoiser_hash, load_denoiser, new_scheduler
from training.settings import DEMO, DEMO_TURBO, PATHS, PATHS_HELD_OUT, DistillationSettings
from training.trajectories import Paths, load_teacher, path_levels, read_paths, sample_paths
from training.workers import Crew, run_crew

_VALIDATION_BATCH = 16
_COUNTS = (1, 2, 4)  # of steps, in validations

# Those of LCM-LoRA: every matrix and convolution but the first, the last, and the embeddings.
_MODULES = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)


def add_lora(unet: Any, rank: int) -> None:
    """A LoRA that changes nothing yet, from torch's global seed; the UNet itself is frozen."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(_MODULES)))


def lora_parameters(unet: Any) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in unet.named_parameters() if parameter.requires_grad]


class FewStepTask:
    """A teacher's paths, and a LoRA on its UNet."""

    def __init__(
        self, settings: DistillationSettings, base: Path, paths: Paths, held_out: Paths, device: torch.device
    ) -> None:
        self.settings, self.base, self.device = settings, base, device
        self.paths, self.held_out = paths, held_out
        models = load_denoiser(base)
        for model in models.parts().values():
            model.to(device).eval().requires_grad_(False)
        add_lora(models.unet, settings.rank)
        if device.type == "cpu":
            fuse(models.unet)
        self.unet = models.unet
        self.diffusion = Diffusion(models, snr_ceiling=1, device=device)
        self.levels = path_levels(settings.paths.steps).to(device)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return lora_parameters(self.unet)

    def more_state(self) -> list[Tensor]:
        return []

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        """The mean pseudo-Huber error of the ends said (Charbonnier et al., 1997)."""
        settings = self.settings
        chosen = chance.numpy.integers(len(self.paths.values), size=settings.schedule.batch)
        path, conditions = self._part(self.paths, torch.from_numpy(chosen))
        own, first = (round(share * len(path)) for share in (settings.own, settings.first))
        gap = settings.paths.steps // int(chance.numpy.choice(settings.counts))
        places = torch.cat(
            [
                stratified_levels(own, chance.torch, settings.paths.steps - gap),
                torch.zeros(first, dtype=torch.long),
                stratified_levels(len(path) - own - first, chance.torch, settings.paths.steps),
            ]
        ).to(self.device)
        noisy = path[torch.arange(len(path), device=self.device), places]
        with torch.no_grad():
            said = self.end_of(noisy[:own], places[:own], conditions.part(slice(own)))
            noisy[:own] = self.go_on(noisy[:own], said, places[:own], places[:own] + gap)
            places[:own] += gap
        error = self.end_of(noisy, places, conditions) - path[:, -1]
        return ((error.pow(2) + settings.huber**2).sqrt() - settings.huber).mean(), len(path)

    def end_of(self, noisy: Tensor, places: Tensor, conditions: Conditions) -> Tensor:
        """What is said about where paths end that come by noisy latents [N, 4, h, w] at their steps `places` [N]."""
        levels = self.levels[places]
        signal, share = self.diffusion.shares(levels)
        return signal * noisy - share * self.diffusion.predict(noisy, levels, conditions)

    def go_on(self, noisy: Tensor, said: Tensor, places: Tensor, then: Tensor) -> Tensor:
        """The sampler's latents at the steps `then` [N] once it has been said at `places` [N] where the path ends.

        Euler's step in latents of unit variance: the noise that the end leaves of them is kept.
        """
        signal, share = self.diffusion.shares(self.levels[places])
        next_signal, next_share = self.diffusion.shares(self.levels[then])
        return next_signal * said + next_share * (noisy - signal * said) / share

    def validate(self) -> dict[str, float]:
        """Squared errors of held-out ends after 1, 2 and 4 steps, and of the teacher's own after as many of its
        steps, at 2 calls each."""
        errors = dict.fromkeys(map(_named, _COUNTS), 0.0)
        held_out = torch.arange(len(self.held_out.values))
        for part in held_out.split(_VALIDATION_BATCH):
            path, conditions = self._part(self.held_out, part)
            for count in _COUNTS:
                error = (self._sample(path, conditions, count) - path[:, -1]).pow(2).mean()
                errors[_named(count)] += float(error) * len(part) / len(held_out)
        return errors | self._teachers_errors

    def _sample(self, path: Tensor, conditions: Conditions, count: int) -> Tensor:
        """The ends of the sampler's own paths of `count` steps, from where the teacher's begin."""
        gap = self.settings.paths.steps // count
        places = torch.zeros(len(path), dtype=torch.long, device=self.device)
        noisy = path[:, 0]
        said = self.end_of(noisy, places, conditions)
        for _ in range(count - 1):
            noisy = self.go_on(noisy, said, places, places + gap)
            places = places + gap
            said = self.end_of(noisy, places, conditions)
        return said

    @cached_property
    def _teachers_errors(self) -> dict[str, float]:
        values = torch.from_numpy(self.held_out.values).float()
        found = {}
        for count in _COUNTS:
            settings = replace(self.settings.paths, steps=count)
            ends = sample_paths(load_teacher(self.base, self.device), values[:, 0], self.held_out.tokens, settings)
            found[f"teacher {_named(count)}"] = (ends[:, -1] - values[:, -1]).pow(2).mean().item()
        return found

    def _part(self, paths: Paths, chosen: Tensor) -> tuple[Tensor, Conditions]:
        """Some paths [N, steps + 1, 4, h, w] and their captions."""
        values = torch.from_numpy(paths.values[chosen.numpy()]).float().to(self.device)
        tokens = Tokens(paths.tokens.first[chosen], paths.tokens.second[chosen])
        return values, self.diffusion.conditions(tokens, torch.ones(len(chosen)))


def _named(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def write(run: Run, base: Path, target: Path) -> None:
    """Write the averaged LoRA of a run's checkpoint, in diffusers' format, and its sampler to a folder."""
    settings: DistillationSettings = run.settings
    unet = load_denoiser(base).unet
    add_lora(unet, settings.rank)
    assign_average(dict(lora_parameters(unet)), run.checkpoint)
    with replacing(target) as beside:
        # Named as peft does: diffusers' older names are read back in part only, with no more than a warning.
        StableDiffusionXLPipeline.save_lora_weights(beside, get_peft_model_state_dict(unet.half()))
        scheduler: Any = new_scheduler()
        scheduler.save_pretrained(beside / "scheduler")


def train(crew: Crew, run: Run, base: Path, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    settings: DistillationSettings = run.settings
    paths, held_out = (read_paths(pictures, base, settings.paths) for pictures in (PATHS, PATHS_HELD_OUT))
    Loop(FewStepTask(settings, base, paths, held_out, device), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.few_step", description=__doc__)
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline to distil (default: the embedded)")
    parser.add_argument("--to", type=Path, default=DEMO_TURBO, help="folder to write the LoRA to")
    add_run(parser, DistillationSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    settings = replace(DistillationSettings(), teacher=denoiser_hash(arguments.base))
    run = run_of(arguments, "few_step", settings)
    run_crew(crew_size(arguments, device), train, run, arguments.base, device)
    write(run, arguments.base, arguments.to)


if __name__ == "__main__":
    main()
