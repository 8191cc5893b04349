"""Count multiply-adds of whatever runs inside a context, dense or thin, on real or meta tensors.

The published convention counts convolutions and linears, one multiply-add = 1, and leaves the matrix
products of attention out; they are counted apart here. Counting happens at the operators that really ran,
so a thin pass is counted by the same code as a dense one. It counts shapes, not time: a zero multiplied
counts like any number.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sparsedit.sparse.packing import can_pack

aten = torch.ops.aten

_LINEARS = {aten.mm, aten.addmm, aten._scaled_mm}
_BATCHED = {aten.bmm, aten.baddbmm}
_MATMULS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__}
# Names of operators that multiply matrices, whoever wrote them: a word of the name, so that
# `upsample_bilinear2d` or `_fused_sdp_choice` do not count as one.
_MATMUL_LIKE = re.compile(
    r"(?:^|_)(?:add|badd|sparse|int8pack|int4pack)?"
    r"(?:mm|bmm|mv|dot|vdot|matmul|linear|bilinear|trilinear|einsum|conv\w*|attention|lstm|gru|rnn)(?:_|$)"
)


@dataclass
class MacCount:
    """What ran inside `count_macs`; filled when the context ends.

    `macs`: convolutions and linears. `attention_macs`: scaled-dot-product attention, and other products of
    two batches of matrices. `uncounted`: calls of operators that look like matrix products but have no
    known formula.
    """

    macs: int = 0
    attention_macs: int = 0
    uncounted: dict[str, int] = field(default_factory=dict)


@contextmanager
def count_macs() -> Iterator[MacCount]:
    """Count the multiply-adds of everything called inside, on any device, `meta` included.

    A product of two batches of matrices (`bmm`, `baddbmm`, what `einsum` becomes) counts as attention,
    where diffusers has its only ones; one that a linear layer was turned into (torch does that to a 3-d
    input which is not contiguous) counts as linear.
    """
    count = MacCount()
    flops = FlopCounterMode(display=False, custom_mapping=_own_formulas())
    watch = _UncountedMode(flops)
    linears = _LinearMode(flops)
    try:
        with watch, flops, linears:
            yield count
    finally:
        total = flops.flop_counts["Global"]
        plain = sum(n for op, n in total.items() if op in _LINEARS or "conv" in str(op) or "linear" in str(op))
        count.macs = (plain + linears.flops) // 2
        count.attention_macs = (sum(total.values()) - plain - linears.flops) // 2
        count.uncounted = dict(watch.calls)


def _own_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas that torch has not, or not in every version: its CPU kernel of attention, linears by packed weights."""
    formulas: dict[Any, Callable[..., int]] = {aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    if can_pack():
        formulas[torch.ops.mkldnn._linear_pointwise] = _packed_linear_flops
        formulas[torch.ops.mkldnn._reorder_linear_weight] = lambda *args, **kwargs: 0
    return formulas


def _packed_linear_flops(rows: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    """Rows [..., I] -> [..., O], a multiply-add = 2; the packed weight between them keeps its layout to itself."""
    flops: int = 2 * math.prod(out_shape) * rows[-1]
    return flops


def _attention_flops(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    """Both products of softmax(q k') v, a multiply-add = 2: `[B, H, M, D]`, `[B, H, N, D]`, `[B, H, N, E]`."""
    batch, heads, queries, depth = q
    return 2 * batch * heads * queries * k[2] * (depth + v[3])


def _has_matrix(*operands: Any) -> bool:
    return any(isinstance(operand, torch.Tensor) and operand.dim() <= 2 for operand in operands)


class _LinearMode(TorchFunctionMode):
    """Adds up the flops of batched products called as a linear: `F.linear`, or `x @ w` of a 2-d `w`."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self._counter = counter
        self.flops = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not (func is F.linear or (func in _MATMULS and _has_matrix(*args, *kwargs.values()))):
            return func(*args, **kwargs)
        before = self._batched()
        result = func(*args, **kwargs)
        self.flops += self._batched() - before
        return result

    def _batched(self) -> int:
        total = self._counter.flop_counts["Global"]
        return sum(total[op] for op in _BATCHED)


class _UncountedMode(TorchDispatchMode):
    """Sees what the counter passes on, and notes the matrix products it has no formula for."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self._counter = counter
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        namespace, _, name = str(packet).rpartition(".")
        # An operator of another library may be anything: better named once too often than dropped.
        foreign = namespace not in {"aten", "prim", "prims"}
        if packet not in self._counter.flop_registry and (foreign or _MATMUL_LIKE.search(name)):
            self.calls[str(packet)] += 1
        return func(*args, **(kwargs or {}))
