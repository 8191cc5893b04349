"""The noise of a case: of its seed alone, whatever else is in the batch and wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def generators(count: int, seed: int) -> list[torch.Generator]:
    """One generator per picture, all in the same state: the pictures of a case share their noise.

    They live on the CPU whatever the device, so that a seed means the same noise everywhere.
    """
    return [torch.Generator("cpu").manual_seed(seed) for _ in range(count)]


def resumed(noise: list[torch.Generator]) -> list[torch.Generator]:
    """Generators that go on from where these are, which stay there: for another pass over the same noise."""
    return [generator.clone_state() for generator in noise]


def draw(like: Tensor, noise: Sequence[torch.Generator]) -> Tensor:
    """Noise of that shape [P, C, h, w], each picture's from its own generator."""
    shape = (1, *like.shape[1:])
    return torch.cat(
        [randn_tensor(shape, generator=generator, device=like.device, dtype=like.dtype) for generator in noise]
    )
