"""Memory for large copies that are done with before the next is made.

What a thin pass remembers stays as it is, so attention copies the keys and values that it renews. In a picture of 4096
pixels a side they take 84 MB a layer, which comes from the system page by page at every copy and goes back: twice the
time of copying into memory at hand (benchmarks/NOTES.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGE = 32 << 20
"""Bytes from which glibc keeps no memory of a process's own; smaller pieces are at hand anyway."""


class Rooms:
    """One tensor for each use and shape, handed out again and again: a copy is good until the next of its kind."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[Any, ...], Tensor] = {}

    def like(self, tensor: Tensor, use: str) -> Tensor | None:
        """Room for a copy of a large tensor; None for others, where torch keeps memory, and for gradients."""
        if tensor.nbytes < LARGE or tensor.device.type != "cpu" or torch.is_grad_enabled():
            return None
        key = (use, tensor.shape, tensor.dtype, torch.is_inference_mode_enabled())
        if key not in self._rooms:
            self._rooms[key] = torch.empty_like(tensor)
        return self._rooms[key]
