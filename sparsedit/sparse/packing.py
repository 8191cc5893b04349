"""Weights once more, in the layout oneDNN's bf16 kernels want; for thin passes on a CPU.

A thin pass multiplies few rows with large matrices, and oneDNN re-orders a plain matrix at every product. Re-ordered
once, the same products run 1.2 to 1.7 times as fast and give the same bits (benchmarks/NOTES.md), for a second copy of
the weights in memory. An option: without it, and for other dtypes and devices, products are torch's own.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsedit.sparse.shapes import SHAPES


class PackedWeights:
    """Re-ordered weights by module, made at their first use and made again when a weight has changed."""

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()
        self.nbytes = 0

    def linear(self, rows: Tensor, owner: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
        """rows [..., I] times weight [O, I], the weight being `owner`'s, plus bias [O]."""
        if rows.dtype != torch.bfloat16 or rows.device.type != "cpu" or torch.is_grad_enabled():
            return F.linear(rows, weight, bias)
        matrix, count = self._of(owner, weight), rows.shape[:-1].numel()
        places = SHAPES.length(count, *weight.shape)
        if places == count:
            return _product(rows, matrix, bias)
        filled = F.pad(rows.reshape(count, -1), (0, 0, 0, places - count))
        return _product(filled, matrix, bias)[:count].view(*rows.shape[:-1], -1)

    def _of(self, owner: nn.Module, weight: Tensor) -> Tensor:
        key = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        held = self._packed.get(owner)
        if held is None or held[0] != key:
            self.nbytes += weight.nbytes if held is None else 0
            held = (key, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))
            self._packed[owner] = held
        return held[1]


def _product(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, matrix, bias, "none", [], "")
    return product


def can_pack() -> bool:
    """Whether this build of torch has oneDNN's re-ordering operators, and this processor what its bf16 kernels need."""
    mkldnn = torch.ops.mkldnn
    return torch._C._has_mkldnn and hasattr(mkldnn, "_reorder_linear_weight") and mkldnn._is_mkldnn_bf16_supported()
