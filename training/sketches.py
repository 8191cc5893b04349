"""SDEdit from flat sketches: is the result closer to the rendered scene than the sketch it was made from?

A sketch has the scene's shapes in plain colours (`render(scene, flat=True)`). Closer is measured by SSIM and PSNR
against the rendered scene, and by how many of its attributes the probe reads off the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from diffusers import AutoPipelineForImage2Image
from PIL import Image

from sparsedit.models.silence import silence
from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import Scene
from training.adherence import noises, render_scenes, right, to_bytes
from training.attributes import ATTRIBUTES
from training.log import say
from training.pictures import Picture
from training.probe import Probe
from training.reconstruction import likeness


def draw_sketches(scenes: Sequence[Scene]) -> Picture:
    """The flat sketches [N, 256, W, 3] of scenes."""
    return np.stack([render(scene, flat=True) for scene in scenes])


def image_to_image(pipe: Any, pictures: Picture, prompts: Sequence[str], strength: float, settings: Any) -> Picture:
    """What stock image-to-image makes of pictures [N, H, W, 3], each with its prompt and the noise of its number.

    `settings` says with how many `steps`, which `guidance`, and how many at once (`batch`).
    """
    editor: Any = AutoPipelineForImage2Image.from_pipe(pipe)
    editor.set_progress_bar_config(disable=True)
    made = []
    for start in range(0, len(pictures), settings.batch):
        numbers = range(start, min(start + settings.batch, len(pictures)))
        with silence():  # it casts the VAE to the dtype that it has, and warns of that
            images = editor(
                [prompts[number] for number in numbers],
                image=[Image.fromarray(pictures[number]) for number in numbers],
                strength=strength,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=noises(numbers),
                output_type="np",
            ).images
        made.append(to_bytes(images))
        say(f"strength {strength:g}: {numbers.stop} of {len(pictures)} pictures")
    return np.concatenate(made)


def scores(probe: Probe, results: Picture, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Sketches and results against the rendered scenes.

    `ssim` and `psnr`: the means of both and the number of scenes whose result is `closer`. `probe`: the attributes
    read right, of `attributes`, on sketches, results and rendered scenes, all scenes together, and the number of
    scenes with more of them right on the result (`closer`) and with fewer (`farther`) than on the sketch.
    """
    sketches, rendered = draw_sketches(scenes), render_scenes(scenes)
    table: dict[str, Any] = {"count": len(scenes)}
    before, after = (
        np.array([likeness(one, other) for one, other in zip(pictures, rendered, strict=True)], float)
        for pictures in (sketches, results)
    )
    for column, name in enumerate(("psnr", "ssim")):
        table[name] = {
            "sketch": float(before[:, column].mean()),
            "result": float(after[:, column].mean()),
            "closer": int((after[:, column] > before[:, column]).sum()),
        }
    read = {
        name: right(probe, pictures, scenes)
        for name, pictures in (("sketch", sketches), ("result", results), ("rendered", rendered))
    }
    gained = read["result"].sum(1) - read["sketch"].sum(1)
    table["probe"] = {
        "attributes": len(scenes) * len(ATTRIBUTES),
        **{name: int(values.sum()) for name, values in read.items()},
        "closer": int((gained > 0).sum()),
        "farther": int((gained < 0).sum()),
    }
    return table
