"""Attention on a thin image: active tokens ask, all tokens answer.

| leaf         | remembers                      | thin                                             |
|--------------|--------------------------------|--------------------------------------------------|
| SelfKeyValue | K or V of all tokens           | those of the active tokens written over them     |
| TextKeyValue | K or V of a prompt, once       | nothing                                          |
| Attending    | nothing                        | queries of active tokens, softmax(q k' / √d) v   |

K and V are remembered by heads, [B, heads, T, d] in one piece: with few queries the memory's layout decides the time
(see benchmarks/NOTES.md). A dense pass runs the model's own attention processor, whichever of diffusers' plain ones it
is; they all compute what `attend` does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse.cache import Memory
from sparsedit.sparse.leaves import Call, Leaf
from sparsedit.sparse.rows import thin, thin_rows
from sparsedit.sparse.shapes import SHAPES

SCORES = 1 << 24
"""On a CPU, up to this many scores (batch x heads x queries x keys) two plain matrix products beat the fused kernel."""


class KeyValue(Leaf):
    """A key or value projection; thinly it answers the queries of active tokens."""

    def __init__(self, name: str, module: nn.Module, heads: int) -> None:
        super().__init__(name, module)
        self.heads = heads
        self.use = name.rpartition(".")[2]

    @abstractmethod
    def answers(self, call: Call, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """For each part of the queries what it meets, [B, heads, T, d]."""

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        ((_, met),) = self.answers(call, x)
        return met

    def project(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The module's own output [B, T, C], by its packed weight where there is one."""
        return call.project(x, self.module) if type(self.module) is nn.Linear else self.dense(x, *args, **kwargs)


class SelfKeyValue(KeyValue):
    """Of a self-attention: all tokens of the original, the active ones renewed."""

    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        height, width = call.resolution
        if height * width != x.shape[1]:
            raise EngineError(
                f"{self.name} attends over {x.shape[1]} tokens, which is not the {width}x{height} map before it; "
                "the engine knows attention over the pixels of one map only"
            )
        y = self.dense(x, *args, **kwargs)
        call.remember(self.name, Memory((split_heads(y.detach(), self.heads).contiguous(),), call.resolution))
        return y

    def answers(self, call: Call, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        memory = call.recall(self.name)
        rows = split_heads(self.project(call, x), self.heads)
        call.renew(self.name, rows)
        room = call.rooms.like(memory.tensors[0], self.use) if type(memory) is Memory else None
        for part, own in zip(call.pyramid.parts, call.pyramid.slices(memory.size), strict=True):
            yield own, memory.renewed(part.level(memory.size).index, rows[:, :, own], room)


class TextKeyValue(KeyValue):
    """Of a cross-attention: computed once per prompt, for recordings and edits alike."""

    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return merge_heads(self.projected(call, x, *args, **kwargs))

    def answers(self, call: Call, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        yield slice(None), self.projected(call, x)

    def projected(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Keys or values of a prompt [B, L, D], by heads."""
        key = (self.name, call.texts.find(x))
        if key not in call.texts.projected:
            projected = self.dense(x, *args, **kwargs).detach()
            call.texts.projected[key] = split_heads(projected, self.heads).contiguous()
        return call.texts.projected[key]


class Attending(Leaf):
    """An attention module; its `key` and `value` are leaves of their own.

    Where it is known to be `plain`, linear layers without hooks, these are read and not called.
    """

    def __init__(self, name: str, module: Attention) -> None:
        super().__init__(name, module)
        self.attention = module
        kind = TextKeyValue if module.is_cross_attention else SelfKeyValue
        self.key = kind(f"{name}.to_k", module.to_k, module.heads)
        self.value = kind(f"{name}.to_v", module.to_v, module.heads)
        self.plain = False

    def record(
        self, call: Call, x: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if (encoder_hidden_states is None) == self.attention.is_cross_attention:
            made, given = ("cross", "no") if self.attention.is_cross_attention else ("self", "a")
            raise EngineError(f"{self.name} was made for {made}-attention and is given {given} prompt")
        return self.dense(x, encoder_hidden_states, *args, **kwargs)

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.attend(call, x, *args, **kwargs)

    def attend(
        self,
        call: Call,
        x: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Tokens [B, N, C] or a thin image [B, C, N, 1] -> the same, as diffusers' AttnProcessor2_0 computes it."""
        attention = self.attention
        tokens = thin_rows(x) if x.ndim == 4 else x
        if attention.group_norm is not None:
            tokens = attention.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        seen = tokens if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(self.project(call, attention.to_q, tokens), attention.heads)
        mask = self.mask(attention_mask, encoder_hidden_states)
        met = zip(self.key.answers(call, seen), self.value.answers(call, seen), strict=True)
        parts = [attend(query[:, :, own], key, value, mask) for (own, key), (_, value) in met]
        out = merge_heads(parts[0] if len(parts) == 1 else torch.cat(parts, 2))
        out = self.project(call, attention.to_out[0], out)
        out = out if self.plain else attention.to_out[1](out)
        out = thin(out) if x.ndim == 4 else out
        if attention.residual_connection:
            out = out + x
        return out if attention.rescale_output_factor == 1 else out / attention.rescale_output_factor

    def project(self, call: Call, layer: nn.Module, rows: Tensor) -> Tensor:
        """What a layer of the module's makes of rows [B, N, C]."""
        return call.project(rows, cast(nn.Linear, layer)) if self.plain else layer(rows)

    def mask(self, attention_mask: Tensor | None, text: Tensor | None) -> Tensor | None:
        """The mask of a prompt's tokens as attention adds it, [B, heads, 1, L]."""
        if attention_mask is None:
            return None
        if text is None:
            raise EngineError(f"{self.name} was given a mask over pixels; the engine masks the tokens of a prompt only")
        batch, length, _ = text.shape
        prepared = self.attention.prepare_attention_mask(attention_mask, length, batch)
        return prepared.view(batch, self.attention.heads, -1, length)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / √d + mask) v, of q [B, heads, N, d] and k, v [B, heads, T, d] (Vaswani et al., 2017)."""
    if query.device.type != "cpu" or query.shape[:3].numel() * key.shape[2] > SCORES:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    batch, heads, count, width = query.shape
    if query.dtype == torch.bfloat16 and (places := SHAPES.length(count, *key.shape)) != count:
        query = F.pad(query, (0, 0, 0, places - count))
    query, key, value = (each.reshape(batch * heads, -1, width) for each in (query, key, value))
    scores = torch.baddbmm(query.new_empty(()), query, key.transpose(1, 2), beta=0, alpha=width**-0.5)
    if mask is not None:
        scores = (scores.view(batch, heads, -1, scores.shape[2]) + mask).flatten(0, 1)
    return torch.bmm(scores.softmax(2), value).view(batch, heads, -1, width)[:, :, :count]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads * d] -> [B, heads, T, d], a view."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, T, d] -> [B, T, heads * d]."""
    return x.transpose(1, 2).flatten(2)
