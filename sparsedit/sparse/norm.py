"""GroupNorm on a thin image: the one operation of these models that sees a whole map at once.

| statistics | remembers                                          | thin                                              |
|------------|----------------------------------------------------|---------------------------------------------------|
| original   | scale and shift, [B, C]                            | one fused multiply-add                            |
| updated    | mean, variance, and two moments per site and group | the active sites' moments exchanged, then as above |

Updated statistics follow an edit that changes a map's brightness or contrast, and make a thin pass over all sites the
dense pass whatever was recorded. Moments are taken about the original's mean, so that nothing cancels.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sparsedit.sparse.cache import Memory, put
from sparsedit.sparse.leaves import Call, Leaf
from sparsedit.sparse.rows import thin, thin_rows
from sparsedit.sparse.sites import SitePyramid, Size


class GroupNormalisation(Leaf):
    """GroupNorm (Wu and He, 2018, equation 1) as y = scale * x + shift, per sample and channel."""

    def __init__(self, name: str, module: nn.GroupNorm) -> None:
        super().__init__(name, module)
        self.norm = module
        self.own = self.dense == MethodType(nn.GroupNorm.forward, module)

    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.ndim == 4:
            call.resolution = (x.shape[2], x.shape[3])
        if self.own and x.device.type == "cpu" and x.dtype == self.dtype == torch.float32:
            y, mean, inverse = self.native(x, self.norm.weight, self.norm.bias)
        else:
            y = self.dense(x, *args, **kwargs)
            mean, inverse = self.statistics(x.detach())
        mean, inverse = mean.detach(), inverse.detach()
        if call.moments:
            call.remember(self.name, self.moments(x, mean, inverse, call.resolution))
        else:
            call.remember(self.name, Memory(self.scale_shift(mean, inverse, x.dtype), (0, 0)))
        return y

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Of a thin image, or of tokens [B, C, N]."""
        if x.ndim == 3:
            return self.on_rows(call, x.transpose(1, 2)).transpose(1, 2)
        return thin(self.on_rows(call, thin_rows(x)))

    def on_rows(self, call: Call, rows: Tensor) -> Tensor:
        """`thin` on rows [B, N, C]."""
        memory = call.recall(self.name)
        scale, shift = self.follow(call, memory, rows) if follows(memory) else memory.tensors
        return torch.addcmul(shift.unsqueeze(1), rows, scale.unsqueeze(1))

    def counts(self, memory: Memory) -> bool:
        return follows(memory)

    @property
    def dtype(self) -> torch.dtype:
        """Of the norm's weights; float32 where it has none."""
        return torch.float32 if self.norm.weight is None else self.norm.weight.dtype

    def native(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """torch's own group norm of an input [B, C, ...], and the means and inverse deviations [B, G] it took."""
        batch, channels = x.shape[:2]
        pixels, norm = x.shape[2:].numel(), self.norm
        return torch.native_group_norm(x, weight, bias, batch, channels, pixels, norm.num_groups, norm.eps)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and inverse deviations [B, G] of an input [B, C, ...], in float32.

        On a CPU torch's norm takes them without a copy of its input, and in float32 where its weights are; with
        weights in half precision it would round them. Of GPUs it is not known which layouts it takes when called by
        itself.
        """
        if x.device.type == "cpu" and x.dtype != torch.float64:
            one = x.new_ones(x.shape[1], dtype=torch.float32)
            return self.native(x, one, torch.zeros_like(one))[1:]
        groups = x.float().reshape(x.shape[0], self.norm.num_groups, -1)
        variance, mean = torch.var_mean(groups, -1, correction=0)
        return mean, self.inverse(variance)

    def moments(self, x: Tensor, mean: Tensor, inverse: Tensor, size: Size) -> Memory:
        """Mean and variance [B, G] of an input [B, C, ...] of T sites, and its sites' moments [B, T, 2 G]."""
        rows = self.grouped(x.detach().flatten(2).transpose(1, 2))
        variance = (inverse.square().reciprocal() - self.norm.eps).clamp(min=0)
        return Memory((mean, variance, _moments(rows - mean[:, None, :, None]).to(x.dtype)), size)

    def follow(self, call: Call, memory: Memory, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift [B, C] once the active sites hold `x` [B, N, C]."""
        mean, variance, moments = memory.tensors
        rows = self.grouped(x)
        active = call.pyramid.level(memory.size).index
        own = _moments(rows - mean[:, None, :, None])
        change = (own.sum(1) - moments.index_select(1, active).float().sum(1)) / (moments.shape[1] * rows.shape[3])
        first, second = change.chunk(2, 1)
        mean, variance = mean + first, (variance + second - first.square()).clamp(min=0)
        call.renew(self.name, mean, variance, own)
        return self.scale_shift(mean, self.inverse(variance), x.dtype)

    def write(self, memory: Memory, sites: SitePyramid, fresh: tuple[Tensor, ...]) -> None:
        """Write new statistics and the active sites' moments, and take those of all sites about the new mean."""
        mean, variance, moments = memory.tensors
        new_mean, new_variance, own = fresh
        put(moments, sites.level(memory.size).index, own)
        channels = self.norm.num_channels // self.norm.num_groups
        moved = (new_mean.to(mean) - mean)[:, None]
        first, second = moments.float().chunk(2, 2)
        moments.copy_(torch.cat([first - channels * moved, second + moved * (channels * moved - 2 * first)], 2))
        mean.copy_(new_mean)
        variance.copy_(new_variance)

    def grouped(self, rows: Tensor) -> Tensor:
        """Rows [B, T, C] -> [B, T, G, C / G] in float32."""
        return rows.float().reshape(rows.shape[0], rows.shape[1], self.norm.num_groups, -1)

    def inverse(self, variance: Tensor) -> Tensor:
        """Variances -> inverse deviations."""
        return (variance + self.norm.eps).rsqrt()

    def scale_shift(self, mean: Tensor, inverse: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Means and inverse deviations [B, G] -> scale and shift [B, C]."""
        norm = self.norm
        each = (norm.num_groups, norm.num_channels // norm.num_groups)
        scale, mean = inverse.unsqueeze(2).expand(-1, *each), mean.unsqueeze(2)
        if norm.affine:
            scale = scale * norm.weight.detach().float().view(each)
            shift = torch.addcmul(norm.bias.detach().float().view(each), mean, scale, value=-1)
        else:
            shift = -mean * scale
        return scale.flatten(1).to(dtype), shift.flatten(1).to(dtype)


def follows(memory: Memory) -> bool:
    """Whether a norm's memory is one that follows an edit. Of no other leaf's tensors there are more than two."""
    return len(memory.tensors) > 2


def _moments(deviations: Tensor) -> Tensor:
    """Deviations [B, T, G, c] -> their sums and sums of squares over a group's channels, [B, T, 2 G]."""
    return torch.cat([deviations.sum(3), deviations.square().sum(3)], 2)
