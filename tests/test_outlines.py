"""On the meta device operators answered in one step have the results that torch works out for them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sparsedit.measure.outlines import OUTLINES, Outlines

CALLS = {
    "addmm": lambda x: torch.addmm(x[0, 0, 0], x[0, 0], x[0, 0].mT),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[2:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "native_group_norm": lambda x: torch.native_group_norm(x, None, None, 2, 8, 36, 2, 1e-5),
    "native_layer_norm": lambda x: torch.native_layer_norm(x, [6, 6], None, None, 1e-5),
    "safe_softmax": lambda x: torch.ops.aten._safe_softmax(x, -1),
    "safe_softmax to another dtype": lambda x: torch.ops.aten._safe_softmax(x, -1, torch.float64),
    "add": lambda x: x + x,
    "add spread": lambda x: x[:, :1] + x[0],
    "add a number": lambda x: x + 1,
    "add another dtype": lambda x: x + x.double(),
    "add whole numbers": lambda x: torch.ones(2, dtype=torch.long, device=x.device) + 1,
    "addcmul": lambda x: torch.addcmul(x[:, :1], x, x[0]),
    "div": lambda x: x / x,
    "div by a number": lambda x: x / 2,
    "div whole numbers": lambda x: torch.ones(2, dtype=torch.long, device=x.device) / 2,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "mul by a number": lambda x: torch.ops.aten.mul.Scalar(x, 2.0),
    "mul": lambda x: x * x.mT,
    "silu": lambda x: F.silu(x),
    "transposed": lambda x: x.transpose(1, 2) + x.transpose(1, 2),
}


def outline_of(result):
    results = result if isinstance(result, tuple) else (result,)
    return [(each.shape, each.dtype, each.device, each.stride()) for each in results]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_are_torchs(name, dtype):
    x = torch.empty(2, 8, 6, 6, dtype=dtype, device="meta")
    with torch.no_grad():
        expected = outline_of(CALLS[name](x))
        with Outlines():
            assert outline_of(CALLS[name](x)) == expected


def test_every_outline_is_held_to_torchs():
    seen = set()

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Seen():
        for call in CALLS.values():
            call(torch.empty(2, 8, 6, 6, device="meta"))
    assert seen >= set(OUTLINES)


def test_real_tensors_are_computed():
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(6, 4)
    calls = (lambda: F.silu(x) + x, lambda: torch.addmm(weight[0], x[0, 0], weight), lambda: F.layer_norm(x, (6, 6)))
    expected = [call() for call in calls]
    with Outlines():
        assert all(torch.equal(call(), result) for call, result in zip(calls, expected, strict=True))
