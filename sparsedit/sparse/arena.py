"""What a thin pass reads of one step and one prompt, at addresses that stay the same from step to step.

A CUDA graph reads the addresses it was captured over, so one graph serves every step only if each step's memory is
brought to the same place first. Of a convolution's map only the halo is brought. Keys and values are brought whole, and
the thin pass then writes those of the active tokens into them: outside of a graph it makes a copy for that, so bringing
them costs no byte more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from weakref import ref

import torch
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse.attention import TextKeyValue
from sparsedit.sparse.cache import Memory, Step, TextMemory
from sparsedit.sparse.leaves import Call, Leaf
from sparsedit.sparse.sites import SitePyramid, Size


@dataclass(frozen=True)
class FixedMemory(Memory):
    """A leaf's memory in an arena. Of a map it holds the halo rows [B, M, C] and a row of zeros."""

    def around(self, positions: Tensor) -> list[Tensor]:
        return list(self.tensors)

    def renewed(self, active: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        return self.tensors[0].index_copy_(2, active, rows)


@dataclass
class FixedTexts(TextMemory):
    """Keys and values of one prompt of every length; a text is taken for the one of its length that was loaded last."""

    loaded: dict[int, tuple[ref[TextMemory], int]] = field(default_factory=dict)

    def find(self, text: Tensor) -> int:
        return text.shape[1]

    def load(self, texts: TextMemory, leaves: Iterable[Leaf], prompt: Tensor, step: Step) -> None:
        """Bring in the keys and values of a prompt, which are projected where `texts` does not know them yet."""
        length, number = self.find(prompt), texts.find(prompt)
        known, was = self.loaded.get(length, (lambda: None, -1))
        if known() is texts and was == number:
            return
        pairs = []
        for leaf in leaves:
            if isinstance(leaf, TextKeyValue):
                projected = leaf.thin(Call(step, texts), prompt)
                if (leaf.name, length) not in self.projected:
                    self.projected[leaf.name, length] = torch.empty_like(projected)
                pairs.append((self.projected[leaf.name, length], projected))
        copy_all(pairs)
        self.loaded[length] = (ref(texts), number)


class Arena:
    """Room for one step of a model and its prompt, as `leaves` read them on the sites of `pyramid`.

    An arena made `like` another shares its room with it, except for the halos: only one is filled at a time.
    """

    def __init__(self, step: Step, leaves: Iterable[Leaf], pyramid: SitePyramid, like: Arena | None = None) -> None:
        self.texts: FixedTexts = like.texts if like else FixedTexts()
        self._layout = _layout(step)
        self._halos: dict[str, Tensor] = {}
        by_name = {leaf.name: leaf for leaf in leaves}
        rooms: dict[str, Memory] = {}
        for run, memory in step.leaves.items():
            window = by_name[run.partition("#")[0]].reach(memory)
            if window is not None:
                self._halos[run] = pyramid.neighbours(window).halo
                tensors = tuple(memory.around(self._halos[run]))
            else:
                tensors = like.step.leaves[run].tensors if like else tuple(map(torch.empty_like, memory.values))
            rooms[run] = FixedMemory(tensors, memory.size, memory.grid)
        outputs = like.step.outputs if like else [torch.empty_like(out) for out in step.outputs]
        self.step: Step = replace(step, leaves=rooms, outputs=outputs)

    def takes(self, step: Step) -> bool:
        """Whether a step is of the model, size, batch and precision that the arena was made for."""
        own = self.step
        same = (own.size, own.batch, own.dtype, own.device) == (step.size, step.batch, step.dtype, step.device)
        return same and self._layout == _layout(step)

    def load(self, step: Step) -> None:
        """Bring in what a thin pass reads of `step`; nothing waits for the device."""
        pairs = list(zip(self.step.outputs, step.outputs, strict=True))
        for run, room in self.step.leaves.items():
            memory = step.leaves[run]
            if run in self._halos:
                memory.rows(self._halos[run], out=room.tensors[0])
            else:
                pairs += zip(room.tensors, memory.values, strict=True)
        copy_all(pairs)


def _layout(step: Step) -> list[tuple[str, Size, int]]:
    return [(run, memory.size, len(memory.tensors)) for run, memory in step.leaves.items()]


def copy_all(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy each second tensor into the first, a few kernels for all of one precision."""
    by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for target, source in pairs:
        if target.shape != source.shape:
            new, made = list(source.shape), list(target.shape)
            raise EngineError(f"a tensor {new} cannot go where a CUDA graph expects {made}")
        by_dtype[target.dtype].append((target, source))
    for group in by_dtype.values():
        torch._foreach_copy_([target for target, _ in group], [source for _, source in group])
