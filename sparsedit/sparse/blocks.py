"""Blocks of diffusers' models that a thin call runs as one.

Where few sites are active a call costs what it takes to start its operations, much of it in Python: a module that calls
modules. A block here asks none of its modules. It makes the operations they would make, in their order, on rows from
end to end, so that every bit is the same; what its leaves remember is theirs.

| block            | module                                                                              |
|------------------|-------------------------------------------------------------------------------------|
| Residual         | ResnetBlock2D: two convolutions, SiLU, an added time embedding                      |
| TransformerLayer | BasicTransformerBlock: self-attention, attention to a prompt, GEGLU                 |
| Transformer      | Transformer2DModel: a norm, a projection, layers, a projection back                 |

A module is taken as one only where it is nothing but that: of exactly these classes, in evaluation, without hooks or
another forward, and with the code of diffusers that was read for this (`MIRRORED`). Any other runs module by module.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel, Transformer2DModelOutput
from torch import Tensor, nn

from sparsedit.sparse.attention import Attending
from sparsedit.sparse.forward import touched
from sparsedit.sparse.leaves import Call, Convolution, Leaf
from sparsedit.sparse.norm import GroupNormalisation
from sparsedit.sparse.rows import thin, thin_rows

Leaves = Mapping[nn.Module, Leaf]


class Block(ABC):
    """A module whose thin call is made in one piece. `dense` is its own forward, module by module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.dense: Callable[..., Any] = module.forward

    @classmethod
    @abstractmethod
    def of(cls, module: Any, leaves: Leaves) -> Self | None:
        """The block of a plain module whose leaves are known; None where it does more than the block would."""

    @abstractmethod
    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the module answers to the same arguments in a thin call."""


class Residual(Block):
    """Two convolutions and what goes around them (He et al., 2016), as in ResnetBlock2D."""

    def __init__(self, module: ResnetBlock2D, leaves: Leaves) -> None:
        super().__init__(module)
        self.norms = [cast(GroupNormalisation, leaves[norm]) for norm in (module.norm1, module.norm2)]
        self.convolutions = [cast(Convolution, leaves[conv]) for conv in (module.conv1, module.conv2)]
        self.shortcut = None if module.conv_shortcut is None else cast(Convolution, leaves[module.conv_shortcut])
        self.embedding: nn.Linear | None = module.time_emb_proj
        self.activated: bool = module.skip_time_act
        self.divisor: float = module.output_scale_factor

    @classmethod
    def of(cls, module: Any, leaves: Leaves) -> Self | None:
        timed = type(module.time_emb_proj) is nn.Linear and module.time_embedding_norm == "default"
        timeless = module.time_emb_proj is None and module.time_embedding_norm in ("default", "group")
        known = (
            (timed or timeless)
            and type(module.nonlinearity) is nn.SiLU
            and module.upsample is module.downsample is None
        )
        return cls(module, leaves) if known else None

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        temb: Tensor | None = args[0] if args else kwargs.get("temb")
        if len(args) > 1 or kwargs.keys() - {"temb"} or (temb is None) != (self.embedding is None):
            return cast(Tensor, self.dense(x, *args, **kwargs))
        (norm1, norm2), (conv1, conv2), rows = self.norms, self.convolutions, thin_rows(x)
        hidden = conv1.on_rows(call, F.silu(norm1.on_rows(call, rows)))
        if temb is not None and self.embedding is not None:
            hidden = hidden + call.project(temb if self.activated else F.silu(temb), self.embedding).unsqueeze(1)
        hidden = conv2.on_rows(call, F.silu(norm2.on_rows(call, hidden)))
        if self.shortcut is not None:
            rows = self.shortcut.on_rows(call, rows)
        out = rows + hidden
        return thin(out if self.divisor == 1 else out / self.divisor)


class TransformerLayer(Block):
    """Attention to the picture, attention to the prompt, GEGLU (Shazeer, 2020), as in BasicTransformerBlock."""

    def __init__(self, module: BasicTransformerBlock, leaves: Leaves) -> None:
        super().__init__(module)
        self.norms = cast(list[nn.LayerNorm], [module.norm1, module.norm2, module.norm3])
        self.attentions = [cast(Attending, leaves[attention]) for attention in (module.attn1, module.attn2)]
        for attention in self.attentions:
            attention.plain = True
        self.gated = cast(nn.Linear, module.ff.net[0].proj)
        self.back = cast(nn.Linear, module.ff.net[2])

    @classmethod
    def of(cls, module: Any, leaves: Leaves) -> Self | None:
        net = module.ff.net
        known = (
            module.norm_type == "layer_norm"
            and module.pos_embed is module._chunk_size is None
            and not module.only_cross_attention
            and [type(each) for each in (module.norm1, module.norm2, module.norm3)] == [nn.LayerNorm] * 3
            and all(_is_plain(attention) for attention in (module.attn1, module.attn2))
            and type(module.ff) is FeedForward
            and [type(each) for each in net[:3]] == [GEGLU, nn.Dropout, nn.Linear]
            and all(type(each) is nn.Dropout for each in net[3:])
            and type(net[0].proj) is nn.Linear
        )
        return cls(module, leaves) if known else None

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs.get("cross_attention_kwargs"):
            return cast(Tensor, self.dense(x, *args, **kwargs))
        return self.on_tokens(
            call,
            x,
            kwargs.get("encoder_hidden_states"),
            kwargs.get("encoder_attention_mask"),
            kwargs.get("attention_mask"),
        )

    def on_tokens(
        self,
        call: Call,
        x: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens [B, N, C] and a prompt [B, L, D] with the mask that attention adds to its tokens -> [B, N, C]."""
        (norm1, norm2, norm3), (to_picture, to_prompt) = self.norms, self.attentions
        x = to_picture.attend(call, _normed(norm1, x), None, mask) + x
        x = to_prompt.attend(call, _normed(norm2, x), text, text_mask) + x
        inner, gate = call.project(_normed(norm3, x), self.gated).chunk(2, -1)
        return call.project(inner * F.gelu(gate), self.back) + x


class Transformer(Block):
    """Layers between two projections, as in Transformer2DModel on a picture."""

    def __init__(self, module: Transformer2DModel, leaves: Leaves, layers: Sequence[TransformerLayer]) -> None:
        super().__init__(module)
        self.norm = cast(GroupNormalisation, leaves[module.norm])
        self.projections = [leaves.get(each, each) for each in (module.proj_in, module.proj_out)]
        self.layers = layers

    @classmethod
    def of(cls, module: Any, leaves: Leaves) -> Self | None:
        if any(type(layer) is not BasicTransformerBlock for layer in module.transformer_blocks):
            return None
        layers = [TransformerLayer.of(layer, leaves) for layer in module.transformer_blocks]
        known = (
            module.is_input_continuous
            and None not in layers
            and all(type(each) is nn.Linear or each in leaves for each in (module.proj_in, module.proj_out))
        )
        return cls(module, leaves, cast(list[TransformerLayer], layers)) if known else None

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        text, text_mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
        masked = kwargs.get("attention_mask") is not None or (text_mask is not None and text_mask.ndim == 2)
        if args or masked or kwargs.get("cross_attention_kwargs"):
            return self.dense(x, *args, **kwargs)
        (into, back), rows = self.projections, thin_rows(x)
        tokens = _projected(call, into, self.norm.on_rows(call, rows))
        for layer in self.layers:
            tokens = layer.on_tokens(call, tokens, text, text_mask)
        out = thin(_projected(call, back, tokens) + rows)
        return Transformer2DModelOutput(sample=out) if kwargs.get("return_dict", True) else (out,)


BLOCKS: Mapping[type[nn.Module], type[Block]] = {
    ResnetBlock2D: Residual,
    BasicTransformerBlock: TransformerLayer,
    Transformer2DModel: Transformer,
}

MIRRORED = (
    ResnetBlock2D.forward,
    BasicTransformerBlock.forward,
    FeedForward.forward,
    GEGLU.forward,
    GEGLU.gelu,
    Transformer2DModel.forward,
    Transformer2DModel._operate_on_continuous_inputs,
    Transformer2DModel._get_output_for_continuous_inputs,
)
"""The code that the blocks stand for."""

DIGEST = "74e4104c8bc126ca211197abb5df39f2ea2458533cc4ffeadab7fd4fe8076437"
"""SHA-256 of its source as it was read, in diffusers 0.42."""


def find_blocks(model: nn.Module, leaves: Sequence[Leaf]) -> list[Block]:
    """Every outermost module below `model` that can run as one, given the model's leaves."""
    by_module = {leaf.module: leaf for leaf in leaves}
    other = {part for part in model.modules() if part is not model and touched(part)}
    found: list[Block] = []

    def look(module: nn.Module) -> None:
        kind = BLOCKS.get(type(module))
        plain = kind is not None and (not other or other.isdisjoint(module.modules()))
        block = kind.of(module, by_module) if kind is not None and plain else None
        if block is not None:
            found.append(block)
            return
        for child in module.children():
            look(child)

    if mirrored():
        for child in model.children():
            look(child)
    return found


@functools.cache
def mirrored() -> bool:
    """Whether this diffusers has the code that was read; where it has another, every module is asked."""
    source = "".join(inspect.getsource(function) for function in MIRRORED)
    return hashlib.sha256(source.encode()).hexdigest() == DIGEST


def _is_plain(attention: nn.Module | None) -> bool:
    """Whether an attention's own projections are linear layers and nothing else."""
    if type(attention) is not Attention:
        return False
    return [type(each) for each in (attention.to_q, *attention.to_out)] == [nn.Linear, nn.Linear, nn.Dropout]


def _projected(call: Call, projection: Leaf | nn.Module, rows: Tensor) -> Tensor:
    if isinstance(projection, Convolution):
        return projection.on_rows(call, rows)
    return call.project(rows, cast(nn.Linear, getattr(projection, "module", projection)))


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
