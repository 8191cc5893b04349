"""CLIP score: how well a picture fits a text, 100 times the cosine of their embeddings, at least 0.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (EMNLP 2021), in the scale that
torchmetrics and the editing papers use. Texts longer than CLIP's 77 tokens are cut, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from sparsedit.metrics.backbones import refusing
from sparsedit.models.silence import silence


class Clip:
    """A CLIP model from a folder in the layout of the hub's."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Read model, tokenizer and picture settings; ModelError if they cannot be used."""
        with refusing(f"{folder} is not a CLIP model"), silence():
            self.model = _read(CLIPModel, folder, dtype=torch.float32)
            self.processor = _read(CLIPProcessor, folder)
        self.model.requires_grad_(False).to(device).eval()
        self.device = device

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """The score of each picture with its text."""
        longest = self.model.config.text_config.max_position_embeddings
        cut = {"padding": True, "truncation": True, "max_length": longest}
        inputs = self.processor(text=list(texts), images=list(pictures), return_tensors="pt", **cut).to(self.device)
        output = self.model(**inputs)
        # The output's embeddings have unit length.
        scores = 100 * (output.image_embeds * output.text_embeds).sum(-1)
        values: list[float] = scores.clamp(min=0).tolist()
        return values


def _read(cls: Any, folder: Path, **options: Any) -> Any:
    return cls.from_pretrained(folder, local_files_only=True, **options)
