"""Running a family through the engine in one line, and comparing what comes out."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse
from sparsedit.sparse.rows import tensors_of
from tests.families import FAMILIES, Inputs, Size

SIZES = ("even", "odd", "small")


@cache
def model_of(name: str) -> nn.Module:
    """A family's model, shared by all tests: the engine leaves it as it was."""
    return FAMILIES[name].build()


def size_of(name: str, which: str) -> Size:
    return FAMILIES[name].sizes[SIZES.index(which)]


def whole(size: Size) -> SitePyramid:
    return SitePyramid.from_mask(torch.ones(size, dtype=torch.bool))


def nothing(size: Size) -> SitePyramid:
    return SitePyramid.from_mask(torch.zeros(size, dtype=torch.bool))


def mask_of(kind: str, size: Size) -> Tensor:
    """A block, pixels scattered everywhere, or the single pixel of the last corner."""
    height, width = size
    mask = torch.zeros(size, dtype=torch.bool)
    if kind == "block":
        mask[height // 3 : height // 3 + 2, width // 4 : width // 2] = True
    elif kind == "corner":
        mask[-1, -1] = True
    else:
        mask = torch.rand(size, generator=torch.Generator().manual_seed(3)) < 0.15
    return mask


def sites_of(kind: str, size: Size) -> SitePyramid:
    return SitePyramid.from_mask(mask_of(kind, size))


def recorded(model: nn.Module, *steps: Inputs) -> tuple[ActivationCache, Any]:
    """The cache of one or more calls, and what the last returned."""
    memory = ActivationCache()
    result = None
    with record(model, memory):
        for inputs in steps:
            result = model(**inputs)
    return memory, result


def edited(model: nn.Module, memory: ActivationCache, sites: SitePyramid, inputs: Inputs) -> Any:
    """What one thin call returns."""
    with sparse(model, memory, sites):
        return model(**inputs)


def outputs(result: Any) -> list[Tensor]:
    """The tensors of whatever a model returns."""
    return tensors_of(result)


def same_bits(result: Any, reference: Any) -> bool:
    pairs = zip(outputs(result), outputs(reference), strict=True)
    return all(torch.equal(found, wanted) for found, wanted in pairs)


def relative_error(result: Any, reference: Any) -> float:
    """The largest over all output tensors, of the norms' ratio and of the maxima's."""
    worst = 0.0
    for found, wanted in zip(outputs(result), outputs(reference), strict=True):
        difference = found.double() - wanted.double()
        for size in (Tensor.norm, lambda tensor: tensor.abs().max()):
            worst = max(worst, float(size(difference) / size(wanted.double())))
    return worst


def counted(model: nn.Module) -> Counter[str]:
    """Counts what the key and value projections of cross-attention really compute, from now on."""
    calls: Counter[str] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            for part in ("to_k", "to_v"):
                projection = getattr(module, part)
                projection.forward = counting(calls, f"{name}.{part}", projection.forward)
    return calls


def counting(calls: Counter[str], name: str, forward: Any) -> Any:
    def count(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return forward(*args, **kwargs)

    return count
