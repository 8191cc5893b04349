"""What the calls of a stage count: multiply-adds, and the bytes they must move; on the meta device, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from sparsedit.measure.macs import count_macs
from sparsedit.measure.traffic import least_bytes
from sparsedit.measure.twin import Call, Twin
from sparsedit.plan import Plan
from sparsedit.sparse import ActivationCache, SitePyramid, sparse


@dataclass(frozen=True)
class Counted:
    """Of one call or several: multiply-adds as `measure/macs.py` counts them, bytes as `measure/traffic.py` does."""

    macs: int = 0
    attention_macs: int = 0
    least_bytes: int = 0
    uncounted: frozenset[str] = frozenset()

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
            self.least_bytes + other.least_bytes,
            self.uncounted | other.uncounted,
        )

    def __mul__(self, times: int) -> Counted:
        return Counted(self.macs * times, self.attention_macs * times, self.least_bytes * times, self.uncounted)

    def entry(self) -> dict[str, Any]:
        """As a record has it."""
        return asdict(self) | {"uncounted": sorted(self.uncounted)}


@dataclass(frozen=True)
class StageCount:
    """One call of a stage, dense and thin (texts have no thin one), and what one step of its recording holds.

    `first` is the first thin call of an edit, where that is another: one that projects a new prompt to keys and values.
    `prompt` is all that encoding one prompt takes in an edit: its negative too, with every pipeline's encoders.
    """

    dtype: torch.dtype
    dense: Counted
    thin: Counted | None = None
    first: Counted | None = None
    prompt: Counted | None = None
    cache_bytes: int | None = None

    @classmethod
    def of(cls, twin: Twin, stage: str, sites: SitePyramid, dtype: torch.dtype, *, new_prompt: bool) -> StageCount:
        """Count a stage whose model is in `dtype`, for an edit with a prompt of its own or without."""
        projects = new_prompt and "encoder_hidden_states" in twin.calls[stage][2]
        return cls(
            dtype,
            count_dense(twin, stage, dtype),
            count_thin(twin, stage, sites, dtype),
            first=count_thin(twin, stage, sites, dtype, new_prompt=True) if projects else None,
            cache_bytes=round(twin.recorded(stage).step(0).nbytes * _scale(twin.calls[stage][0], dtype)),
        )

    @classmethod
    def of_text(cls, texts: Sequence[tuple[Twin, int]], dtype: torch.dtype) -> StageCount:
        """One text through every text encoder of some pipelines; a prompt is so many texts to each."""
        counted = [(_count_encoders(twin, dtype), times) for twin, times in texts]
        one = sum((each for each, _ in counted), Counted())
        return cls(dtype, one, prompt=sum((each * times for each, times in counted), Counted()))

    def together(self, calls: int, *, thin: bool) -> Counted:
        """So many calls in one edit."""
        if self.prompt is not None:
            return self.prompt if calls else Counted()
        if not thin or self.thin is None:
            return self.dense * calls
        if self.first and calls:
            return self.first + self.thin * (calls - 1)
        return self.thin * calls

    def entry(self) -> dict[str, Any]:
        """As a record has it."""
        sparse = self.thin.entry() if self.thin else None
        named = {"dense": self.dense.entry(), "sparse": sparse, "dtype": str(self.dtype).removeprefix("torch.")}
        return named | ({} if self.cache_bytes is None else {"cache_bytes": self.cache_bytes})


def count_dense(twin: Twin, stage: str, dtype: torch.dtype) -> Counted:
    """One dense call of a model that is in `dtype`."""
    return _count(twin.calls[stage], None, dtype)


def _count_encoders(twin: Twin, dtype: torch.dtype) -> Counted:
    """One text through every text encoder of a pipeline."""
    names = (name for name in twin.calls if name.startswith("text_encoder"))
    return sum((count_dense(twin, name, dtype) for name in names), Counted())


def count_thin(twin: Twin, stage: str, sites: SitePyramid, dtype: torch.dtype, *, new_prompt: bool = False) -> Counted:
    """One thin call of it."""
    model, args, kwargs = twin.calls[stage]
    cache = twin.recorded(stage)
    if new_prompt:
        kwargs = kwargs | {"encoder_hidden_states": torch.empty_like(kwargs["encoder_hidden_states"])}
    with sparse(model, cache, sites):
        return _count((model, args, kwargs), cache, dtype)


def _count(call: Call, cache: ActivationCache | None, dtype: torch.dtype) -> Counted:
    model, args, kwargs = call
    with torch.no_grad(), count_macs() as count:
        moved = least_bytes(model, lambda: model(*args, **kwargs), (args, kwargs), cache)
    return Counted(count.macs, count.attention_macs, round(moved * _scale(model, dtype)), frozenset(count.uncounted))


def _scale(model: nn.Module, dtype: torch.dtype) -> float:
    """Bytes of a number in `dtype` over those of one on the twin."""
    return dtype.itemsize / next(model.parameters()).element_size()


def sites_of(plan: Plan, stage: str) -> SitePyramid:
    """The active sites of a stage; a ControlNet works on the UNet's."""
    return plan.stage_sites["unet" if stage.startswith("controlnet") else stage]
