"""The attribute probe: does a picture show what its prompt says?

    python -m training.probe            trains it on rendered pictures and prints its own accuracy
    python -m training.score            scores a model with it

A small convolutional network, one softmax per attribute. Its pictures are blurred and made noisy at random, so
that it reads a generated picture as it reads a rendered one.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsedit.suites.scenes.scene import HEIGHT, sample_scene
from training import checkpoint
from training.arguments import add_run, command, crew_size, device_of, run_of
from training.attributes import ATTRIBUTES, labels
from training.loop import Chance, Clock, Loop, Run
from training.parts import read_parts
from training.pictures import folder_of, to_tensor
from training.settings import PROBE, PROBE_HELD_OUT, WORK, ProbeSettings
from training.workers import Crew, run_crew

PROBE_WEIGHTS = WORK / "probe.pt"
_WIDTHS = (32, 48, 96, 128, 128)
_SHIFT = 4  # pixels


class Probe(nn.Module):
    """Logits of every attribute from images [N, 3, 128, 128] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [*_conv(before, width, 2), *_conv(width, width, 1)]
            before = width
        # Where something is matters as much as what: the map is flattened, not averaged.
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(before * 16, sum(map(len, ATTRIBUTES.values())))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits: Tensor = self.head(self.body(images))
        return logits.split([len(options) for options in ATTRIBUTES.values()], 1)

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The likeliest value [N, attributes] of every attribute of whole pictures [N, 3, 256, 256]."""
        small = F.avg_pool2d(images, HEIGHT // ProbeSettings().size)
        return torch.stack([logits.argmax(1) for logits in self(small)], 1)


def _conv(before: int, width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]


def load_probe() -> Probe:
    """The trained probe; InputError when there is none yet."""
    probe = Probe().eval()
    probe.load_state_dict(checkpoint.load(PROBE_WEIGHTS)["average"])
    return probe


class ProbeTask:
    """Rendered pictures, varied in sharpness, noise, contrast and place."""

    def __init__(self, settings: ProbeSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.probe = Probe().to(device).to(memory_format=torch.channels_last)
        seeds, parts = read_parts(folder_of(PROBE))
        self.pictures, self.labels = np.concatenate(parts), _all_labels(seeds)
        seeds, parts = read_parts(folder_of(PROBE_HELD_OUT))
        self.held_out, self.held_out_labels = np.concatenate(parts), _all_labels(seeds)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.probe.named_parameters())

    def more_state(self) -> list[Tensor]:
        return []

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        count = self.settings.schedule.batch
        chosen = chance.numpy.integers(len(self.pictures), size=count)
        images = self._varied(to_tensor(self.pictures[chosen]), chance).to(self.device)
        truth = self.labels[chosen].to(self.device)
        self.probe.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = self.probe(images)
        losses = [F.cross_entropy(part.float(), truth[:, place]) for place, part in enumerate(logits)]
        return torch.stack(losses).sum(), count

    def _varied(self, images: Tensor, chance: Chance) -> Tensor:
        rng = chance.numpy
        if rng.random() < self.settings.blur:
            images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        noise = torch.randn(images.shape, generator=chance.torch)
        contrast = 1 + 0.1 * torch.randn(len(images), 1, 1, 1, generator=chance.torch)
        images = (images + self.settings.noise * float(rng.random()) * noise) * contrast
        shifted = images.roll(int(rng.integers(-_SHIFT, _SHIFT + 1)), 3)
        return shifted.contiguous(memory_format=torch.channels_last)

    def validate(self) -> dict[str, float]:
        """The share of held-out pictures that is read right, by attribute."""
        self.probe.eval()
        found = []
        for start in range(0, len(self.held_out), self.settings.schedule.batch):
            images = to_tensor(self.held_out[start : start + self.settings.schedule.batch]).to(self.device)
            found.append(torch.stack([logits.argmax(1) for logits in self.probe(images)], 1).cpu())
        right = (torch.cat(found) == self.held_out_labels).float().mean(0)
        return dict(zip(ATTRIBUTES, right.tolist(), strict=True))


def _all_labels(seeds: npt.NDArray[np.int64]) -> Tensor:
    """The attributes [N, attributes] of scenes."""
    return torch.tensor([labels(sample_scene(int(seed))) for seed in seeds])


def train(crew: Crew, run: Run, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    Loop(ProbeTask(run.settings, device), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.probe", description=__doc__)
    add_run(parser, ProbeSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    run = run_of(arguments, "probe", ProbeSettings())
    run_crew(crew_size(arguments, device), train, run, device)


if __name__ == "__main__":
    main()
