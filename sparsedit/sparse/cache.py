"""What a dense pass on the original leaves behind for the thin passes of its edits.

An `ActivationCache` is a list of steps, one per call of the model; a `Step` holds the remembered tensors of each
leaf by name. Cross-attention's keys and values depend on the prompt alone and are kept once (`TextMemory`). How the
tensors are held is a matter of `Memory` and its kin (`int8.py`, `halo.py`); where they lie, of a cache and its kin
(`sparsedit.cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sparsedit.errors import CacheError
from sparsedit.sparse.sites import Size


@dataclass(frozen=True)
class Memory:
    """What one leaf remembers of one step: rows or statistics, and the size of the map they came from.

    `tensors` is what is held, `values` the same as the leaf works with it; here they are one.
    """

    tensors: tuple[Tensor, ...]
    size: Size
    grid: Size | None = None

    @property
    def values(self) -> tuple[Tensor, ...]:
        return self.tensors

    def rows(self, positions: Tensor, out: Tensor | None = None) -> Tensor:
        """Rows [B, M, C] of a remembered map at flat positions [M], written to `out` where there is one."""
        return torch.index_select(self.tensors[0], 1, positions, out=out)

    def around(self, positions: Tensor) -> list[Tensor]:
        """Rows of a remembered map at flat positions [M], then one row of zeros: pieces [B, m, C]."""
        rows = self.rows(positions)
        return [rows, rows.new_zeros(rows.shape[0], 1, rows.shape[2])]

    def renewed(self, active: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Remembered keys or values [B, heads, T, d] with `rows` [B, heads, N, d] in the place of active tokens [N].

        Where they have to be copied for that, they are copied to `out`, if there is one.
        """
        return torch.index_copy(self.tensors[0], 2, active, rows, out=out)

    def write(self, active: Tensor, rows: Tensor) -> None:
        """Write rows [B, N, C] of a map, or keys or values [B, heads, N, d], in the place of active sites [N]."""
        put(self.tensors[0], active, rows)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def put(held: Tensor, sites: Tensor, rows: Tensor) -> None:
    """Write rows [..., N, d] over those of `sites` [N] in a tensor [..., T, d], wherever that lies."""
    held.index_copy_(held.ndim - 2, sites.to(held.device), rows.to(held))


@dataclass
class Step:
    """One recorded call of the model."""

    size: Size
    batch: int
    dtype: torch.dtype
    device: torch.device
    timestep: Tensor | None = None
    leaves: dict[str, Memory] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Step:
        """The same step with `function` applied to every tensor of its leaves and outputs."""
        leaves = {
            name: replace(memory, tensors=tuple(map(function, memory.tensors))) for name, memory in self.leaves.items()
        }
        return replace(self, leaves=leaves, outputs=list(map(function, self.outputs)))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a whole step; what is written into one later takes the place of as much."""
        return sum(memory.nbytes for memory in self.leaves.values()) + sum(out.nbytes for out in self.outputs)


@dataclass
class TextMemory:
    """Keys and values of cross-attention, once per prompt.

    A prompt is recognised by its hidden states: a tensor object seen before, or one equal to it (compared once per
    object, which on a GPU is one synchronisation per edit). A `child` knows all its parent knows and keeps what is
    new to itself, so that the prompts of an edit go when the edit is done. `latest` is the prompt found last.
    """

    texts: list[tuple[Tensor, int, int]] = field(default_factory=list)
    projected: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    prompts: int = 0
    latest: int | None = None

    def child(self) -> TextMemory:
        return TextMemory(list(self.texts), dict(self.projected), self.prompts)

    def adopt(self, child: TextMemory) -> None:
        """Know from now on the prompt that a child found last, and no other; nothing changes where it found none."""
        if child.latest is None:
            return
        self.texts = [known for known in child.texts if known[2] == child.latest][-1:]
        self.projected = {key: each for key, each in child.projected.items() if key[1] == child.latest}
        self.prompts = child.prompts

    def find(self, text: Tensor) -> int:
        """The number of a prompt [B, L, D], a new one when it was not seen before."""
        self.latest = self._find(text)
        return self.latest

    def _find(self, text: Tensor) -> int:
        for known, version, number in self.texts:
            if known is text and version == _version(text):
                return number
        kept = ((known, number) for known, version, number in self.texts if version == _version(known))
        equal = (number for known, number in kept if _equal(known, text))
        number = next(equal, self.prompts)
        self.know(text, number)
        return number

    def know(self, text: Tensor, number: int) -> None:
        """From now on recognise `text` as the prompt of that number."""
        self.prompts = max(self.prompts, number + 1)
        self.texts.append((text, _version(text), number))

    def numbered(self) -> dict[int, Tensor]:
        """One tensor for each prompt that is still what it was."""
        return {number: text for text, version, number in self.texts if version == _version(text)}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.projected.values())


class Remembered(Protocol):
    """What thin passes read from: a prompt's keys and values, and the n-th step of a schedule."""

    @property
    def texts(self) -> TextMemory: ...

    def step(self, number: int) -> Step: ...


class Renewable(Remembered, Protocol):
    """What can be written to as well: a recording, or one that stands for more steps than it has."""

    def __len__(self) -> int:
        """Calls it stands for."""
        ...

    def home(self, number: int) -> Step | None:
        """The n-th call as it is held, to be written to; None where it was never recorded."""
        ...


@dataclass(frozen=True)
class SomeSteps:
    """Some of the steps of a recording, by their `places`: what a run reads that makes no others."""

    cache: Renewable
    places: Sequence[int]

    @property
    def texts(self) -> TextMemory:
        return self.cache.texts

    def __len__(self) -> int:
        return len(self.places)

    def step(self, number: int) -> Step:
        """The n-th of them; CacheError when the edit makes more calls than they are."""
        if number >= len(self.places):
            raise CacheError(f"call {number + 1} of a run that was to make {len(self.places)}")
        return self.cache.step(self.places[number])

    def home(self, number: int) -> Step | None:
        return self.cache.home(self.places[number])


class ActivationCache:
    """Remembered activations of one original over one schedule, filled by `record` and read by `sparse`."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.texts = TextMemory()
        self.peak_bytes = 0

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def step(self, number: int) -> Step:
        """The n-th recorded call; CacheError when the edit makes more calls than were recorded."""
        if not self.steps:
            raise CacheError("nothing was recorded in this cache; run the original inside record(model, cache) first")
        if number >= len(self.steps):
            raise CacheError(
                f"call {number + 1} has no recorded step: the original was recorded over {len(self.steps)} "
                "(use the same steps and strength for both)"
            )
        return self.steps[number]

    def home(self, number: int) -> Step | None:
        """The n-th recorded call as it is held, to be written to."""
        return self.steps[number]

    def append(self, step: Step) -> None:
        """Remember one more call."""
        self.steps.append(step)
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def clear(self) -> None:
        """Forget everything."""
        self.steps.clear()
        self.texts = TextMemory()

    @property
    def nbytes(self) -> int:
        """Bytes held, all steps and prompts together."""
        return sum(step.nbytes for step in self.steps) + self.texts.nbytes


def _version(text: Tensor) -> int:
    """Counts the writes in place to a tensor: a buffer filled with another prompt is another prompt."""
    return 0 if text.is_inference() else text._version


def _equal(a: Tensor, b: Tensor) -> bool:
    same_kind = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return same_kind and not a.is_meta and torch.equal(a, b)
