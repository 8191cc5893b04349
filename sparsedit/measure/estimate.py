"""What memory a model will need, before anything of it is loaded.

The model is built on the meta device and called there: shapes and lifetimes of its tensors are those of a real call,
its numbers do not exist. Attention is taken to be fused, as it is on CPUs and GPUs. Not counted are what libraries keep
beside tensors (a CUDA context, kernels' workspaces: some hundred MB) and, on CPUs, packed copies of the weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsedit.frame import Frame
from sparsedit.measure.twin import Call, Twin
from sparsedit.sparse import ActivationCache, record
from sparsedit.stages import Stages

STAGES = ("encoder", "unet", "decoder")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes in one number format, for pictures of one size.

    `weights` are each model's own, `calls` the most that one dense call of a stage holds beside them at a time, `cache`
    what a recording keeps of one call. A pipeline that cannot be edited with has weights alone.
    """

    weights: Mapping[str, int]
    calls: Mapping[str, int] = field(default_factory=dict)
    cache: Mapping[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """All models at once, and the largest call."""
        return sum(self.weights.values()) + max(self.calls.values(), default=0)

    def recording(self, steps: int) -> int:
        """What recording an original for `steps` steps keeps."""
        return sum(size * (steps if stage == "unet" else 1) for stage, size in self.cache.items())


def estimate_memory(pipe: DiffusionPipeline, height: int, width: int, *, guided: bool) -> MemoryEstimate:
    """The need of a pipeline that lies on the meta device (`random_pipeline(..., device="meta")`), in its dtype.

    `guided` calls have two rows in a batch. Sides that the model cannot divide are padded, as for an edit.
    """
    weights = {name: _bytes_of(part) for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    if not hasattr(pipe, "vae"):
        return MemoryEstimate(weights)
    stages = Stages(pipe)
    twin = Twin(stages, *Frame((height, width), stages.scale).padded, 2 if guided else 1)
    calls, cache = {}, {}
    for stage in STAGES:
        dtype = stages.unet.dtype if stage == "unet" else stages.vae.dtype
        model, args, kwargs = in_dtype(twin.calls[stage], dtype)
        calls[stage] = peak_of_call(model, args, kwargs)
        kept = ActivationCache()
        with torch.no_grad(), record(model, kept):
            model(*args, **kwargs)
        cache[stage] = kept.nbytes
    return MemoryEstimate(weights, calls, cache)


def peak_of_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The most bytes of tensors that a call makes and holds at a time, its result included; on any device."""
    live = _Live()
    with torch.no_grad(), _FusedAttention(), live:
        model(*args, **kwargs)
    return live.peak


class _FusedAttention(TorchFunctionMode):
    """On the meta device attention falls apart into products whose scores no real device holds; here it does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention and args[0].is_meta:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


class _Live(TorchDispatchMode):
    """Adds up the storages that operators make, and takes each off when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage(), given)
        return result

    def _hold(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = id(storage)
        if key in self.known or key in given:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, nbytes: int) -> None:
        self.known.discard(key)
        self.now -= nbytes


def in_dtype(call: Call, dtype: Any) -> Call:
    """A call on the meta device in another number format; the model itself is changed."""
    model, args, kwargs = call
    nn.Module.to(model, dtype)  # diffusers' own to() warns where there is nothing to warn of

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
    return model, args, kwargs


def _bytes_of(model: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
