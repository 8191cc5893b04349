"""Multiply-adds by hand: one formula per leaf, from the shapes that a dense call of the untouched model shows.

    convolution    output sites x kernel x input channels / groups x output channels
    linear         rows x inputs x outputs
    attention      2 x queries x keys x width of all heads

A thin call has the active sites where a dense one has all; keys and values of a known prompt are there already.
Nothing is shared with the counters or with the engine. Sizes must halve evenly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sparsedit.measure.macs import MacCount
from tests.families import Inputs, Size


@dataclass(frozen=True)
class Work:
    """`per_site` multiply-adds at every site of a map of `size`; once a call where there is no map (None)."""

    per_site: int
    size: Size | None
    attention: bool = False
    of_prompt: bool = False

    def dense(self) -> int:
        return self.per_site * (self.size[0] * self.size[1] if self.size else 1)

    def thin(self, mask: Tensor) -> int:
        if self.of_prompt:
            return 0
        return self.per_site * (active_sites(mask, self.size) if self.size else 1)


@dataclass
class Formulas:
    """The work of every leaf of one dense call, in order."""

    works: list[Work] = field(default_factory=list)
    sizes: dict[int, Size] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs) -> Formulas:
        formulas = cls()
        with formulas.watching(model), torch.no_grad():
            model(**inputs)
        return formulas

    def dense(self) -> MacCount:
        return self._total([(work.dense(), work.attention) for work in self.works])

    def thin(self, mask: Tensor) -> MacCount:
        """On the active sites that follow from `mask`, bool [H, W] at the resolution of the model's input."""
        return self._total([(work.thin(mask), work.attention) for work in self.works])

    @staticmethod
    def _total(counts: list[tuple[int, bool]]) -> MacCount:
        plain = sum(count for count, attention in counts if not attention)
        return MacCount(plain, sum(count for count, attention in counts if attention))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        prompt = {
            projection
            for module in model.modules()
            if isinstance(module, Attention) and module.is_cross_attention
            for projection in (module.to_k, module.to_v)
        }
        handles = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                handles.append(module.register_forward_hook(self.convolution))
            elif isinstance(module, nn.Linear):
                handles.append(module.register_forward_hook(partial(self.linear, of_prompt=module in prompt)))
            elif isinstance(module, Attention):
                handles.append(module.register_forward_pre_hook(self.attention, with_kwargs=True))
        yield
        for handle in handles:
            handle.remove()

    def convolution(self, module: nn.Conv2d, args: tuple[Tensor], output: Tensor) -> None:
        size = (output.shape[2], output.shape[3])
        self.sizes[size[0] * size[1]] = size
        taps = module.kernel_size[0] * module.kernel_size[1]
        channels = module.in_channels // module.groups * module.out_channels
        self.works.append(Work(output.shape[0] * taps * channels, size))

    def linear(self, module: nn.Linear, args: tuple[Tensor], output: Tensor, of_prompt: bool) -> None:
        weights = module.in_features * module.out_features
        batch = output.shape[0]
        if of_prompt:
            self.works.append(Work(batch * output.shape[1] * weights, None, of_prompt=True))
        elif output.ndim == 3:
            self.works.append(Work(batch * weights, self.sizes[output.shape[1]]))
        else:
            self.works.append(Work(batch * weights, None))

    def attention(self, module: Attention, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = args[0]
        tokens = x.shape[2] * x.shape[3] if x.ndim == 4 else x.shape[1]
        text = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        keys = tokens if text is None else text.shape[1]
        width = module.to_q.out_features
        self.works.append(Work(2 * x.shape[0] * keys * width, self.sizes[tokens], attention=True))


def active_sites(mask: Tensor, size: Size) -> int:
    """How many sites of a map are active: those over any active pixel, or under one."""
    if size[0] <= mask.shape[0]:
        step = mask.shape[0] // size[0]
        return int(F.max_pool2d(mask[None].float(), step).sum())
    return int(mask.sum()) * (size[0] // mask.shape[0]) ** 2
