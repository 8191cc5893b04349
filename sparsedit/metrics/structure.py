"""Structure distance: how much the layout of a picture changed, whatever its colours and textures did.

MSE between the self-similarities of the keys of DINO ViT-B/8's layer 11 (Tumanyan et al., "Splicing ViT Features for
Semantic Appearance Transfer", CVPR 2022), as PnP Inversion's evaluator computes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import normalize, resize
from transformers import ViTModel

from sparsedit.metrics.backbones import refusing
from sparsedit.models.silence import silence

LAYER = 11
SIDE, LONGEST = 224, 480
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Structure:
    """A DINO vision transformer from a folder in the layout of the hub's `facebook/dino-vitb8`."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Read the transformer; ModelError if it cannot be used."""
        with refusing(f"{folder} is not a DINO vision transformer of 12 layers"):
            self.model = _read(folder)
            self.keys_of = self.model.layers[LAYER].attention.k_proj
        self.model.requires_grad_(False).to(device).eval()
        self.device = device

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor, *, antialias: bool) -> list[float]:
        """One distance per pair; batches [B, 3, H, W], in the range and made smaller as the protocol says."""
        difference = self.self_similarity(a, antialias) - self.self_similarity(b, antialias)
        values: list[float] = difference.square().mean(dim=(1, 2)).tolist()
        return values

    def self_similarity(self, pictures: Tensor, antialias: bool) -> Tensor:
        """Cosines [B, T, T] between the keys of all tokens, the class token included."""
        kept: list[Tensor] = []
        handle = self.keys_of.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            self.model(prepared(pictures.to(self.device), antialias), interpolate_pos_encoding=True)
        finally:
            handle.remove()
        keys = kept[0]  # [B, T, C], all heads side by side
        length = keys.norm(dim=2, keepdim=True)
        return keys @ keys.mT / (length @ length.mT).clamp(min=1e-8)


def prepared(pictures: Tensor, antialias: bool) -> Tensor:
    """What the transformer sees: shorter side 224, bilinear, the other at most 480, then ImageNet's normalisation."""
    resized = resize(pictures, [SIDE], max_size=LONGEST, antialias=antialias)
    return normalize(resized, _MEAN, _STD)


def _read(folder: Path) -> Any:
    with silence():
        return ViTModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32)
