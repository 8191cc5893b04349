"""Keys and values in eight bits: half the memory of bfloat16, a quarter of float32.

Every token of every head has a scale of its own (per-token quantisation, as Dettmers et al., 2022, do for rows), so a
token with large entries costs the others nothing. Only what attention reads is held so: K and V are most of a step, and
softmax forgives what a convolution's sum would not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsedit.sparse.cache import Memory, Step, put

LEVELS = 127
_LEAST = torch.finfo(torch.bfloat16).tiny


@dataclass(frozen=True)
class Int8Memory(Memory):
    """K or V as codes (int8 [B, heads, T, d]) and scales (bfloat16 [B, heads, T, 1]); `dtype` is that of the values."""

    dtype: torch.dtype = field(kw_only=True)

    @classmethod
    def of(cls, memory: Memory) -> Int8Memory:
        """A memory of keys or values [B, heads, T, d], rounded to the nearest of 255 levels per token and head."""
        (values,) = memory.tensors
        scales = (values.float().abs().amax(3, keepdim=True) / LEVELS).clamp(min=_LEAST).bfloat16()
        codes = (values.float() / scales.float()).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
        return cls((codes, scales), memory.size, memory.grid, dtype=values.dtype)

    @property
    def values(self) -> tuple[Tensor, ...]:
        codes, scales = self.tensors
        return (codes.to(self.dtype) * scales.to(self.dtype),)

    def renewed(self, active: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        return self.values[0].index_copy_(2, active, rows)  # decoding made a copy already

    def write(self, active: Tensor, rows: Tensor) -> None:
        for held, new in zip(self.tensors, Int8Memory.of(Memory((rows,), self.size)).tensors, strict=True):
            put(held, active, new)


def in_int8(step: Step) -> Step:
    """The step with its keys and values [B, heads, T, d] as `Int8Memory`; rows and statistics as they are."""
    leaves = {
        name: Int8Memory.of(memory) if memory.tensors[0].ndim == 4 else memory for name, memory in step.leaves.items()
    }
    return replace(step, leaves=leaves)
