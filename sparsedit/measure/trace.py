"""Multiply-adds once more, by fvcore: the operators of a TorchScript trace, each with a formula or named as without.

A second opinion on `count_macs`, which counts the operators torch dispatches. The two see a model at different depths
(here `linear` and `scaled_dot_product_attention` are one operator each, there they are whatever kernel ran) and must
agree to the unit, dense and inside `record` and `sparse`. Tracing runs the model once on real tensors, so full-size
models on the meta device are left to `count_macs`; what no output depends on is not part of a trace.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsedit.errors import ModelError
from sparsedit.measure.macs import MacCount
from sparsedit.sparse.rows import tensors_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # on import fvcore scripts a loss function
    from fvcore.nn.jit_analysis import JitModelAnalysis
    from fvcore.nn.jit_handles import addmm_flop_jit, conv_flop_jit, get_shape, linear_flop_jit, matmul_flop_jit

ATTENTION = "attention"

FREE = frozenset({
    "add", "addcmul", "argmax", "clone", "cos", "div", "embedding", "exp", "gelu", "group_norm", "index_copy",
    "index_copy_", "index_fill_", "index_select", "layer_norm", "lift_fresh", "lt", "masked_fill_", "mul",
    "native_group_norm", "neg", "pad", "rsqrt", "sigmoid", "silu", "sin", "softmax", "square",
    "sub", "sum", "tanh", "upsample_nearest1d", "upsample_nearest2d", "where",
})  # fmt: skip
"""Operators that multiply no matrices, beside those fvcore ignores by itself; any other is reported as uncounted."""


def trace_macs(model: nn.Module, *args: Any, **kwargs: Any) -> MacCount:
    """Call `model` once, on real tensors, and count the multiply-adds of the call as `count_macs` does.

    Inside `record` or `sparse` the call is one step, like any other; packed weights cannot be traced. Raises ModelError
    for a model on the meta device.
    """
    if any(weight.is_meta for weight in model.parameters()):
        raise ModelError(f"a trace needs numbers, and this {type(model).__name__} has none (it is on the meta device)")
    analysis = JitModelAnalysis(_Traced(model, args, kwargs), ())
    analysis.set_op_handle(**_HANDLES, **{f"aten::{name}": None for name in FREE})
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad():
        counts = analysis.by_operator()
    attention = counts.pop(ATTENTION, 0)
    uncounted = {name.replace("::", "."): calls for name, calls in analysis.unsupported_ops().items()}
    return MacCount(sum(counts.values()), attention, uncounted)


class _Traced(nn.Module):
    """A call as a module without inputs, for fvcore to trace.

    The model is out of its sight, so that nothing is hooked onto it; its weights are in, because a trace takes no
    tensor that requires gradients for a constant.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(model.parameters())
        self.run: Callable[[], Any] = lambda: model(*args, **kwargs)

    def forward(self) -> tuple[Tensor, ...]:
        with _PlainSizes():
            return tuple(tensors_of(self.run()))


class _PlainSizes(TorchFunctionMode):
    """Keeps sizes numbers. In a trace they would be tensors, each another one, and no key to the engine's plans."""

    ASKED = frozenset({vars(torch._C.TensorBase)["shape"].__get__, Tensor.size, Tensor.numel, Tensor.__len__})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with _tracing_paused() if func in self.ASKED else nullcontext():
            return func(*args, **(kwargs or {}))


@contextmanager
def _tracing_paused() -> Iterator[None]:
    tracer: Any = torch._C  # whose stubs leave out half of the pair
    state = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        yield
    finally:
        tracer._set_tracing_state(state)


def _product(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """`a @ b`: of two batches of matrices attention's, with one matrix a linear layer's."""
    a, b = (get_shape(value) for value in inputs[:2])
    kind = ATTENTION if min(len(a), len(b)) > 2 else "matmul"
    return Counter({kind: math.prod(get_shape(outputs[0])) * a[-1]})


def _added_product(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """`c + a @ b`."""
    return _product(inputs[1:3], outputs)


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Both products of softmax(q k') v, of q [..., M, D], k [..., N, D] and v [..., N, E]."""
    query, key, value = (get_shape(operand) for operand in inputs[:3])
    return Counter({ATTENTION: math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


_HANDLES = {
    "aten::_convolution": conv_flop_jit,
    "aten::linear": linear_flop_jit,
    "aten::addmm": addmm_flop_jit,
    "aten::mm": matmul_flop_jit,
    "aten::matmul": _product,
    "aten::bmm": _product,
    "aten::baddbmm": _added_product,
    "aten::scaled_dot_product_attention": _attention,
}
