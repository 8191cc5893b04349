"""Score a model with the attribute probe: pictures of held-out prompts, and what of the prompt they show.

python -m training.score --grid docs/text_to_image.png
python -m training.score --model training/work/model --prompts 48
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sparsedit.models.loading import load_pipeline
from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import Scene, sample_scene
from training.arguments import add_device, command, device_of
from training.attributes import ATTRIBUTES, labels
from training.captions import full_caption
from training.log import say
from training.pictures import Picture, to_tensor
from training.probe import load_probe
from training.settings import DEMO, FIRST_PROMPT_SEED, SampleSettings

_GRID_COLUMNS = 8
_GRID_ROWS = 4


def sample(model: Path, captions: list[str], settings: SampleSettings, device: torch.device) -> Picture:
    """A picture [N, 256, 256, 3] for each caption, with noise from its number alone."""
    pipe: Any = load_pipeline(str(model), device=device.type, dtype="float32")
    made: list[Picture] = []
    started = time.monotonic()
    for start in range(0, len(captions), settings.batch):
        numbers = range(start, min(start + settings.batch, len(captions)))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            images = pipe(
                [captions[number] for number in numbers],
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=[torch.Generator().manual_seed(number) for number in numbers],
                output_type="np",
            ).images
        made.append(np.asarray(images * 255 + 0.5, np.uint8))
        left = (time.monotonic() - started) / numbers.stop * (len(captions) - numbers.stop)
        say(f"{numbers.stop} of {len(captions)} pictures, {left / 60:.1f} min left")
    return np.concatenate(made)


def scores(pictures: Picture, scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """By attribute: how often the probe reads the prompt's value off the pictures given (`generated`), off the
    rendered ones (`rendered`, the probe's own accuracy), and how often the commonest value is right (`majority`).
    """
    probe = load_probe()
    truth = torch.tensor([labels(scene) for scene in scenes])
    rendered = np.stack([render(scene) for scene in scenes])
    generated = (probe.read(to_tensor(pictures)) == truth).float().mean(0)
    own = (probe.read(to_tensor(rendered)) == truth).float().mean(0)
    table = {}
    for place, name in enumerate(ATTRIBUTES):
        majority = int(truth[:, place].bincount().max()) / len(scenes)
        columns = {"generated": float(generated[place]), "rendered": float(own[place]), "majority": majority}
        table[name] = {column: round(value, 4) for column, value in columns.items()}
    return table


def grid(pictures: Picture) -> Image.Image:
    """The first pictures beside and below each other."""
    shown = pictures[: _GRID_COLUMNS * _GRID_ROWS]
    rows = [np.concatenate(list(row), 1) for row in np.array_split(shown, max(1, len(shown) // _GRID_COLUMNS))]
    return Image.fromarray(np.concatenate([row for row in rows if row.shape == rows[0].shape]))


@command
def main() -> None:
    defaults = SampleSettings()
    parser = argparse.ArgumentParser(prog="python -m training.score", description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO, help="pipeline's folder (default: the embedded)")
    parser.add_argument("--prompts", type=int, default=defaults.prompts)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--guidance", type=float, default=defaults.guidance)
    parser.add_argument("--grid", type=Path, help="PNG to write the first pictures to")
    parser.add_argument("--output", type=Path, help="JSON file to write the scores to")
    add_device(parser)
    arguments = parser.parse_args()
    settings = SampleSettings(arguments.prompts, arguments.steps, arguments.guidance, defaults.batch)
    scenes = [sample_scene(FIRST_PROMPT_SEED + number) for number in range(settings.prompts)]
    captions = [full_caption(scene, scene.seed) for scene in scenes]
    pictures = sample(arguments.model, captions, settings, device_of(arguments))
    table = scores(pictures, scenes)
    for name, row in table.items():
        print(f"{name:12}" + "".join(f"{column} {100 * value:5.1f} %   " for column, value in row.items()))
    if arguments.grid:
        grid(pictures).save(arguments.grid)
    if arguments.output:
        arguments.output.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
