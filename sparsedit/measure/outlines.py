"""Shapes of results on the meta device, for operators whose shapes torch works out step by step in Python there.

A norm takes torch a millisecond on the meta device, most of what a count of a model's multiply-adds takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Outlines(TorchDispatchMode):
    """Tensors on the meta device get the results of such operators in one step; all other calls are passed on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        outline = OUTLINES.get(func)
        if outline is not None and _all_alike(args):
            return outline(*args)
        return func(*args, **(kwargs or {}))


def _all_alike(args: tuple[Any, ...]) -> bool:
    """Whether all tensors are on the meta device, and of one dtype with a point, which the result then is of, too."""
    kinds = {(operand.device.type, operand.dtype) for operand in args if isinstance(operand, Tensor)}
    return len(kinds) == 1 and all(device == "meta" and dtype.is_floating_point for device, dtype in kinds)


def _elementwise(*operands: Any) -> Tensor:
    first, *others = (operand for operand in operands if isinstance(operand, Tensor))
    if all(other.shape == first.shape for other in others):
        return torch.empty_like(first)
    return first.new_empty(torch.broadcast_shapes(first.shape, *(other.shape for other in others)))


def _product(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _layer_norm(x: Tensor, normalized: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[: x.ndim - len(normalized)], *(1 for _ in normalized))
    mean = x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, batch: int, channels: int, area: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(batch, groups)
    return torch.empty_like(x), mean, torch.empty_like(mean)


OUTLINES: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _product,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten._safe_softmax.default: _safe_softmax,
} | dict.fromkeys(
    (
        aten.add.Tensor,
        aten.addcmul.default,
        aten.div.Tensor,
        aten.gelu.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.silu.default,
    ),
    _elementwise,
)
