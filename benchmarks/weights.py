"""By what rows of results know the weights that they were measured with."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsedit.cache.fingerprint import sampled_hash


def weights_of(pipe: Any) -> str:
    """A hash of what makes the pictures of a pipeline, or of an editor's stages: UNet and VAE."""
    return sampled_hash(nn.ModuleList([pipe.unet, pipe.vae]))
