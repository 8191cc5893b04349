"""Between maps [B, C, H, W], rows [B, N, C] and thin images [B, C, N, 1].

A thin image is still an NCHW tensor, so diffusers' point-wise code runs on it unchanged. Its memory is rows: the
channels of one site lie together, which is what the gathers and matrix products of the leaves read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedit.sparse.sites import SitePyramid


def map_rows(x: Tensor) -> Tensor:
    """Map [B, C, H, W] -> rows [B, H*W, C] in memory of their own."""
    return x.detach().flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def thin_rows(x: Tensor) -> Tensor:
    """Thin image [B, C, N, 1] -> rows [B, N, C], contiguous."""
    return x.squeeze(-1).transpose(1, 2).contiguous()


def thin(rows: Tensor) -> Tensor:
    """Rows [B, N, C] -> thin image [B, C, N, 1] over the same memory, strided as channels-last."""
    return rows.unsqueeze(2).permute(0, 3, 1, 2)


def gather(maps: Sequence[Tensor], pyramid: SitePyramid) -> Tensor:
    """Maps [B, C, H, W], one for each part of the sites -> thin image of the active sites of all."""
    size = (maps[0].shape[2], maps[0].shape[3])
    rows = [
        x.flatten(2).index_select(2, part.level(size).index).transpose(1, 2)
        for x, part in zip(maps, pyramid.parts, strict=True)
    ]
    return thin(torch.cat(rows, 1))


def scatter(x: Tensor, remembered: Tensor, pyramid: SitePyramid) -> list[Tensor]:
    """Thin image written over copies of the remembered map [B, C, H, W], one for each part of the sites.

    Sites outside keep their bits.
    """
    size = (remembered.shape[2], remembered.shape[3])
    written = []
    for part, own in zip(pyramid.parts, pyramid.slices(size), strict=True):
        out = remembered.flatten(2).clone()
        if not part.empty:
            out.index_copy_(2, part.level(size).index, x[:, :, own].squeeze(-1).to(out.dtype))
        written.append(out.view(remembered.shape))
    return written


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest of tuples, lists, dicts and model outputs with `function` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        items = {key: map_tensors(item, function) for key, item in value.items()}
        return type(value)(**items) if type(value) is not dict else items
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor of a nest, in the order `map_tensors` visits them."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found
