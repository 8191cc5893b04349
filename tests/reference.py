"""What a thin pass means, computed the slow way: whole maps, the model's own dense forwards, and hooks.

Before every operation that looks across pixels the sites outside the mask are put back to what they were on the
original; norms use the original's statistics. Nothing here is shared with the engine but the list of active sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from sparsedit.sparse import SitePyramid
from tests.engine import outputs
from tests.families import Inputs, Size


class Reference:
    """Runs the original, remembers every input that matters, then runs edits with those inputs mixed in."""

    def __init__(self, model: nn.Module, original: Inputs) -> None:
        self.model = model
        self.kept: dict[str, Tensor] = {}
        self.sizes: dict[int, Size] = {}
        self.sites: SitePyramid | None = None
        with self._hooked(), torch.no_grad():
            self.dense = outputs(model(**original))

    def edit(self, edited: Inputs, sites: SitePyramid) -> list[Tensor]:
        """The outputs of an edit on `sites`, the remembered ones outside."""
        self.sites = sites
        with self._hooked(), torch.no_grad():
            new = outputs(self.model(**edited))
        return [self._mixed(after, before) for after, before in zip(new, self.dense, strict=True)]

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        resampling = (Upsample2D, Downsample2D, nn.Upsample)
        inner = {m for parent in self.model.modules() if isinstance(parent, resampling) for m in parent.children()}
        for name, module in self.model.named_modules():
            if module in inner:
                continue
            if isinstance(module, (nn.Conv2d, *resampling)):
                handles.append(module.register_forward_pre_hook(partial(self._map, name)))
            elif isinstance(module, nn.GroupNorm):
                handles.append(module.register_forward_hook(partial(self._norm, name)))
            elif isinstance(module, Attention) and not module.is_cross_attention:
                for part in ("to_k", "to_v"):
                    hook = partial(self._tokens, f"{name}.{part}")
                    handles.append(getattr(module, part).register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _map(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        self.sizes[x.shape[2] * x.shape[3]] = (x.shape[2], x.shape[3])
        return (self._remembered(name, x), *args[1:])

    def _norm(self, name: str, module: nn.GroupNorm, args: tuple[Any, ...], output: Tensor) -> Tensor:
        groups = args[0].unflatten(1, (module.num_groups, -1)).flatten(2)
        if self.sites is None:
            self.kept[name] = torch.stack([groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)])
        mean, variance = self.kept[name]
        normal = ((groups - mean) / (variance + module.eps).sqrt()).view(output.shape)
        shape = (1, -1, *[1] * (output.ndim - 2))
        return normal * module.weight.view(shape) + module.bias.view(shape)

    def _tokens(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        size = self.sizes[output.shape[1]]
        whole = output.transpose(1, 2).unflatten(2, size)
        return self._remembered(name, whole).flatten(2).transpose(1, 2)

    def _remembered(self, name: str, x: Tensor) -> Tensor:
        if self.sites is None:
            self.kept[name] = x
        return self._mixed(x, self.kept[name])

    def _mixed(self, after: Tensor, before: Tensor) -> Tensor:
        if self.sites is None:
            return before
        size = (after.shape[2], after.shape[3])
        active = (self.sites.level(size).position >= 0).view(size)
        return torch.where(active, after, before)
