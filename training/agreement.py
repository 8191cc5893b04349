"""Do pictures sampled with edges have these edges? Slow: it samples twice 20 steps a picture.

    python -m training.agreement --grid docs/canny.png

F1 of edges found against edges given, an edge within two pixels of another being the same; of pictures sampled
with the ControlNet (`with`), of those sampled with its scale at 0 from the same noise and caption (`without`),
and of the scenes' own latents decoded, which is as good as it gets (`decoded`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from PIL import Image
from scipy import ndimage

from sparsedit.environment import environment
from sparsedit.files import write_atomic
from sparsedit.models.loading import load_pipeline
from sparsedit.models.silence import silence
from sparsedit.suites.scenes.scene import Scene
from training.adherence import held_out_scenes, noises, prompts_of, render_scenes, to_bytes
from training.arguments import add_device, command, device_of
from training.edges import edges_of
from training.grids import grid, write_png
from training.log import say
from training.pictures import Picture, to_pictures, to_tensor
from training.settings import DEMO, DEMO_CANNY, AgreementSettings

Edges = npt.NDArray[np.bool_]


def f1(found: Edges, given: Edges, tolerance: int) -> float:
    """The harmonic mean of precision and recall of edges [H, W], each counted as right within `tolerance` pixels
    of one of the other; 1 where there are none in both."""
    if not found.any() and not given.any():
        return 1.0
    near_found, near_given = (_widened(edges, tolerance) for edges in (found, given))
    right = (found & near_given).sum() / max(1, found.sum())
    seen = (given & near_found).sum() / max(1, given.sum())
    return float(2 * right * seen / max(1e-9, right + seen))


def _widened(edges: Edges, tolerance: int) -> Edges:
    square = np.ones((2 * tolerance + 1, 2 * tolerance + 1), bool)
    return np.asarray(ndimage.binary_dilation(edges, square))


def load_controlled(model: Path, controlnet: Path, device: torch.device) -> Any:
    """The pipeline in a folder with a ControlNet beside its UNet."""
    with silence():
        control = ControlNetModel.from_pretrained(controlnet, torch_dtype=torch.float32).to(device)
    pipe = load_pipeline(str(model), device=device.type, dtype="float32")
    controlled = StableDiffusionXLControlNetPipeline.from_pipe(pipe, controlnet=control)
    controlled.set_progress_bar_config(disable=True)
    return controlled


def sample(pipe: Any, edges: Sequence[Edges], scenes: Sequence[Scene], settings: AgreementSettings) -> Picture:
    """A picture [N, 256, 256, 3] of each scene's caption and edges, with noise from its number alone."""
    captions, images = prompts_of(scenes), [_drawn(one) for one in edges]
    made = []
    for start in range(0, len(scenes), settings.batch):
        numbers = range(start, min(start + settings.batch, len(scenes)))
        part = slice(numbers.start, numbers.stop)
        result = pipe(
            captions[part],
            image=images[part],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            controlnet_conditioning_scale=settings.scale,
            generator=noises(numbers),
            output_type="np",
        )
        made.append(to_bytes(result.images))
        say(f"scale {settings.scale:g}: {numbers.stop} of {len(scenes)} pictures")
    return np.concatenate(made)


def _drawn(edges: Edges) -> Image.Image:
    return Image.fromarray(edges).convert("RGB")


@torch.no_grad()
def decoded(pipe: Any, pictures: Picture) -> Picture:
    """Pictures encoded and decoded again."""
    images = to_tensor(pictures).to(pipe.device)
    return np.concatenate([to_pictures(pipe.vae(part).sample) for part in images.split(1)])


@command
def main() -> None:
    defaults = AgreementSettings()
    parser = argparse.ArgumentParser(prog="python -m training.agreement", description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO, help="pipeline's folder (default: the embedded)")
    parser.add_argument("--controlnet", type=Path, default=DEMO_CANNY, help="its folder (default: the embedded)")
    parser.add_argument("--pictures", type=int, default=defaults.pictures)
    parser.add_argument("--scale", type=float, default=defaults.scale, help="of the ControlNet (default: %(default)g)")
    parser.add_argument("--grid", type=Path, help="PNG to write scenes, edges and both samples to")
    parser.add_argument("--output", type=Path, help="JSON file to write the scores to")
    add_device(parser)
    arguments = parser.parse_args()
    settings = replace(defaults, pictures=arguments.pictures, scale=arguments.scale)
    pipe = load_controlled(arguments.model, arguments.controlnet, device_of(arguments))
    scenes = held_out_scenes(settings.pictures)
    rendered = render_scenes(scenes)
    edges = [edges_of(picture) for picture in rendered]
    pictures = {
        "with": sample(pipe, edges, scenes, settings),
        "without": sample(pipe, edges, scenes, replace(settings, scale=0.0)),
        "decoded": decoded(pipe, rendered),
    }
    table = {
        name: float(np.mean([f1(edges_of(a), b, settings.tolerance) for a, b in zip(made, edges, strict=True)]))
        for name, made in pictures.items()
    }
    for name, value in table.items():
        print(f"{name:8} F1 {value:.3f}")
    if arguments.grid:
        rows = zip(rendered, map(_drawn, edges), pictures["with"], pictures["without"], strict=True)
        write_png(grid([np.asarray(picture) for row in rows for picture in row], 4), arguments.grid)
    if arguments.output:
        text = json.dumps({"settings": asdict(settings), "machine": environment(), "f1": table}, indent=2)
        write_atomic(arguments.output, f"{text}\n".encode())


if __name__ == "__main__":
    main()
