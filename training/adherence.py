"""Does a picture show what its prompt says: samples of held-out prompts, read by the attribute probe.

Everything is kept as counts; percentages and intervals are the card's matter. What the probe misreads on rendered
pictures is counted on the same scenes, so that its errors can be told from the model's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import BASE_WIDTH, HEIGHT, Scene, sample_scene
from training.attributes import ATTRIBUTES, NONE, labels
from training.captions import full_caption
from training.log import say
from training.pictures import Picture, to_tensor
from training.probe import Probe
from training.settings import FIRST_PROMPT_SEED, SampleSettings

Counts = dict[str, dict[str, dict[str, int]]]


def held_out_scenes(count: int) -> list[Scene]:
    """The first scenes whose prompts and pictures nothing was trained or validated on."""
    return [sample_scene(FIRST_PROMPT_SEED + number) for number in range(count)]


def prompts_of(scenes: Sequence[Scene]) -> list[str]:
    """A full wording of each scene."""
    return [full_caption(scene, scene.seed) for scene in scenes]


def render_scenes(scenes: Sequence[Scene]) -> Picture:
    """The rendered pictures [N, 256, W, 3] of scenes."""
    return np.stack([render(scene) for scene in scenes])


def sample(pipe: Any, prompts: Sequence[str], settings: SampleSettings, width: int = BASE_WIDTH) -> Picture:
    """A picture [N, 256, width, 3] for each prompt by a text-to-image pipeline; noise from its number alone."""
    made: list[Picture] = []
    started = time.monotonic()
    for start in range(0, len(prompts), settings.batch):
        numbers = range(start, min(start + settings.batch, len(prompts)))
        images = pipe(
            [prompts[number] for number in numbers],
            height=HEIGHT,
            width=width,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=noises(numbers),
            output_type="np",
        ).images
        made.append(to_bytes(images))
        left = (time.monotonic() - started) / numbers.stop * (len(prompts) - numbers.stop)
        say(f"{settings.steps} steps: {numbers.stop} of {len(prompts)} pictures, {left / 60:.1f} min left")
    return np.concatenate(made)


def noises(numbers: range) -> list[torch.Generator]:
    """A generator for each picture, seeded by its number: batches may be cut anywhere."""
    return [torch.Generator().manual_seed(number) for number in numbers]


def to_bytes(images: Any) -> Picture:
    """Images in [0, 1] as a pipeline returns them, in bytes."""
    return np.asarray(images * 255 + 0.5, np.uint8)


def right(probe: Probe, pictures: Picture, scenes: Sequence[Scene]) -> Any:
    """Whether the probe reads each attribute of each scene off its picture: bool [N, attributes]."""
    truth = torch.tensor([labels(scene) for scene in scenes])
    return (probe.read(to_tensor(pictures)) == truth).numpy()


def counts(probe: Probe, pictures: Picture, scenes: Sequence[Scene]) -> Counts:
    """By attribute and group of prompts, how many there are and how many are read right.

    The groups: `all`, and `named`, those whose value is not "none". Of the house, whose value is the side it
    stands on, `named` therefore counts houses that are there and stand where the prompt says. The columns:
    `count`; `generated`, right on the pictures given; `rendered`, right on the rendered scenes, the probe's own
    accuracy; `majority`, right by always saying the group's commonest value.
    """
    truth = np.array([labels(scene) for scene in scenes])
    generated, rendered = right(probe, pictures, scenes), right(probe, render_scenes(scenes), scenes)
    table: Counts = {}
    for place, (name, options) in enumerate(ATTRIBUTES.items()):
        values = truth[:, place]
        named = np.array([options[value] != NONE for value in values])
        table[name] = {
            group: {
                "count": int(rows.sum()),
                "generated": int(generated[rows, place].sum()),
                "rendered": int(rendered[rows, place].sum()),
                "majority": int(np.bincount(values[rows], minlength=1).max()),
            }
            for group, rows in (("all", np.ones(len(values), bool)), ("named", named))
        }
    return table
