"""The bytes that a call must move at least, found on the meta device by what its operators really read.

    least bytes = weights that are read, once
                + remembered tensors that are read, once
                + what enters the call and what leaves it

Of a tensor that rows are gathered from (a table of embeddings, the map around a convolution's sites) those rows count
alone. Activations between two layers are not in it, for they may stay in a processor's cache; so it is a lower bound,
and a share of a machine's bandwidth computed from it is too low rather than too high.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsedit.sparse import ActivationCache
from sparsedit.sparse.rows import tensors_of

_GATHERS = {torch.ops.aten.index_select, torch.ops.aten.embedding}


def least_bytes(model: nn.Module, call: Callable[[], Any], given: Any, cache: ActivationCache | None = None) -> int:
    """Bytes of one call of a `model` on the meta device: `call()` makes it, `given` is the nest of its inputs.

    `cache` is what a thin call reads. Counted in the dtypes that the tensors have.
    """
    weights = (*model.parameters(), *model.buffers())
    with _ReadMode(weights, remembered(cache) if cache else ()) as reads:
        out = call()
    return reads.nbytes + sum(tensor.nbytes for tensor in (*tensors_of(given), *tensors_of(out)))


def remembered(cache: ActivationCache) -> list[Tensor]:
    """Every tensor that a cache holds of its first step, and of its prompts."""
    step = cache.step(0)
    leaves = [tensor for memory in step.leaves.values() for tensor in memory.tensors]
    return [*leaves, *step.outputs, *cache.texts.projected.values()]


class _ReadMode(TorchDispatchMode):
    """Adds up the bytes of some tensors that operators read: each tensor once, of a row gather the rows it takes."""

    def __init__(self, weights: Iterable[Tensor], memory: Iterable[Tensor]) -> None:
        super().__init__()
        # Views share the storage, so a transposed weight is known for what it is.
        self._unread = {_storage(tensor): tensor.nbytes for tensor in (*weights, *memory)}
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        for tensor in tensors_of((args, kwargs or {})):
            if _storage(tensor) in self._unread:
                whole = self._unread.pop(_storage(tensor))
                self.nbytes += min(out.nbytes, whole) if func._overloadpacket in _GATHERS else whole
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
