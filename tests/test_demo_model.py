"""The embedded model: it is the one that was committed, small enough, loads plainly, and paints what it is told.

After an export `python -m training.hashes` renews the hashes. The pictures are judged by wide margins: a better model
passes as well, noise, a grey field or a model that does not read its prompt do not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from sparsedit.models.silence import silence
from training.hashes import DEMO_BYTES, EMBEDDED_BYTES, embedded_folders, folder_bytes, weight_hashes
from training.settings import DEMO

HASHES = Path(__file__).with_name("demo_hashes.json")

PROMPTS = {
    "red left": "a red house with a brown roof on the left in a meadow by day",
    "red right": "a red house with a brown roof on the right in a meadow by day",
    "blue left": "a blue house with a gray roof on the left in a meadow by day",
    "night": "a red house with a brown roof on the left in a meadow at night",
}
SKY = slice(0, 60), slice(0, 256)
GRASS = slice(226, 256), slice(0, 256)  # below every house
LEFT = slice(150, 215), slice(30, 94)  # where a house on the left has its walls
RIGHT = slice(150, 215), slice(162, 226)

Image = npt.NDArray[np.float32]


def colour(image: Image, box: tuple[slice, slice]) -> Image:
    """Mean red, green and blue, in [0, 1], of a part of a picture [256, 256, 3]."""
    mean: Image = image[box].mean((0, 1))
    return mean


def warmth(image: Image, box: tuple[slice, slice]) -> float:
    """How much more red than blue there is."""
    red, _, blue = colour(image, box)
    return float(red - blue)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    with silence():
        pipe = StableDiffusionXLPipeline.from_pretrained(DEMO)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pictures(pipe: StableDiffusionXLPipeline) -> dict[str, Image]:
    """A picture in [0, 1] for each prompt, all from the same noise."""
    images = pipe(
        list(PROMPTS.values()),
        num_inference_steps=8,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(0) for _ in PROMPTS],
        output_type="np",
    ).images
    return dict(zip(PROMPTS, images, strict=True))


def test_the_weights_are_those_that_were_committed() -> None:
    committed = json.loads(HASHES.read_text())
    assert weight_hashes(embedded_folders()) == committed, "after an export: python -m training.hashes"
    assert {path.partition("/")[0] for path in committed} >= {"demo"}


def test_all_embedded_models_fit_into_a_wheel() -> None:
    assert DEMO in embedded_folders()
    assert folder_bytes(DEMO, "*.safetensors") <= DEMO_BYTES == 24_000_000
    assert sum(map(folder_bytes, embedded_folders())) <= EMBEDDED_BYTES == 60_000_000
    suffixes = {path.suffix for folder in embedded_folders() for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".txt", ".safetensors"}


def test_it_loads_plainly_in_one_dtype(pipe: StableDiffusionXLPipeline) -> None:
    models = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {value.dtype for model in models for value in model.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    assert all(bool(value.isfinite().all()) for model in models for value in model.parameters())


def test_a_picture_is_neither_noise_nor_a_plain_field(pictures: dict[str, Image]) -> None:
    for name, image in pictures.items():
        assert image.shape == (256, 256, 3)
        assert np.abs(np.diff(image, axis=1)).mean() < 0.018, name  # scenes: 0.014; noise, decoded: 0.024
        assert image.mean(2).std() > 0.04, name


def test_the_sky_is_blue_and_the_meadow_green(pictures: dict[str, Image]) -> None:
    for name in ("red left", "red right", "blue left"):
        assert warmth(pictures[name], SKY) < -0.2, name
        red, green, blue = colour(pictures[name], GRASS)
        assert green > red + 0.04, name
        assert green > blue + 0.1, name


def test_a_red_house_is_red_and_a_blue_one_blue(pictures: dict[str, Image]) -> None:
    assert warmth(pictures["red left"], LEFT) > 0.15
    assert warmth(pictures["red left"], LEFT) > warmth(pictures["blue left"], LEFT) + 0.25


def test_the_house_moves_with_the_side_it_is_told(pictures: dict[str, Image]) -> None:
    left, right = (warmth(pictures[name], LEFT) - warmth(pictures[name], RIGHT) for name in ("red left", "red right"))
    assert left > right


def test_night_is_dark(pictures: dict[str, Image]) -> None:
    assert pictures["night"].mean() < 0.6 * pictures["red left"].mean()
    assert warmth(pictures["night"], SKY) < 0
