"""What the model reads: wordings of scenes, fresh at every look, and their tokens."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import CLIPTokenizer

from sparsedit.suites.scenes.caption import caption
from sparsedit.suites.scenes.scene import House, Scene
from training.settings import CAPTION_TOKENS, CaptionSettings

_POSITIONS = {
    "left": (" on the left",),
    "center": (" in the center", " in the middle"),
    "right": (" on the right",),
}


def says_position(text: str, house: House) -> bool:
    """Whether a caption says where the house stands."""
    return any(words in text for words in _POSITIONS[house.position])


def training_caption(scene: Scene, rng: np.random.Generator, settings: CaptionSettings) -> str:
    """A wording to learn from: mostly one that says where the house is, sometimes with words of no meaning."""
    full = bool(rng.random() < settings.full)
    text = _wording(scene, rng, full)
    if scene.house is not None and rng.random() < settings.position:
        while not says_position(text, scene.house):
            text = _wording(scene, rng, full)
    return _with_noise(text, rng) if rng.random() < settings.noise else text


def full_caption(scene: Scene, seed: int) -> str:
    """A wording to be scored by: it leaves nothing out, neither the house's place nor its roof."""
    rng = np.random.default_rng([seed, 78])
    while True:
        text = _wording(scene, rng, full=True)
        house = scene.house
        if house is None or (says_position(text, house) and f"a {house.roof} roof" in text):
            return text


def _wording(scene: Scene, rng: np.random.Generator, full: bool) -> str:
    return caption(scene, int(rng.integers(1 << 31)), full=full)


def _with_noise(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    for _ in range(int(rng.integers(1, 4))):
        letters = rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 8)))
        words.insert(int(rng.integers(len(words) + 1)), "".join(letters))
    return " ".join(words)


@dataclass(frozen=True)
class Tokens:
    """Captions for the two text encoders, int64 [N, 48] each."""

    first: Tensor
    second: Tensor


def tokenize(captions: Sequence[str], tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> Tokens:
    """Tokens of captions, filled up or cut to the model's length."""
    first, second = (
        tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=CAPTION_TOKENS,
            return_tensors="pt",
        )["input_ids"]
        for tokenizer in tokenizers
    )
    return Tokens(first, second)
