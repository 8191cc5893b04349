"""The leaves that look across pixels, each with what it remembers of a dense pass and how it runs on a thin image.

Everything else in a diffusion model is point-wise and runs on `[B, C, N, 1]` as it is. A leaf owns one module; its
`record` is the module's own dense forward plus a note in the step, its `thin` computes the active sites alone.

| leaf          | remembers            | thin                                                             |
|---------------|----------------------|------------------------------------------------------------------|
| Convolution   | its input map        | rows of active sites and their halo, one gather, one product     |
| UpSampling    | its (small) input    | the same, through the parents of nearest up-sampling             |

GroupNorm and attention have modules of their own, `norm.py` and `attention.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse.cache import Memory, Step, TextMemory
from sparsedit.sparse.packing import PackedWeights
from sparsedit.sparse.renewal import Fresh
from sparsedit.sparse.rooms import Rooms
from sparsedit.sparse.rows import map_rows, thin, thin_rows
from sparsedit.sparse.sites import SitePyramid, Size, Window


@dataclass
class Call:
    """One call of the model: the step it writes or reads, and for a thin one the sites.

    `resolution` is the size of the map that the last spatial leaf of a dense pass produced; attention, which sees
    tokens only, learns its geometry from it. `moments` says whether norms remember what it takes to follow an edit.
    `fresh` collects what a thin call makes anew, where somebody wants it; `rooms` hold copies that no leaf keeps.
    """

    step: Step
    texts: TextMemory
    sites: SitePyramid | None = None
    packed: PackedWeights | None = None
    moments: bool = False
    fresh: Fresh | None = None
    rooms: Rooms = field(default_factory=Rooms)
    resolution: Size = (0, 0)
    runs: dict[str, int] = field(default_factory=dict)

    def remember(self, name: str, memory: Memory) -> None:
        self.step.leaves[self._run(name)] = memory

    def recall(self, name: str) -> Memory:
        run = self._run(name)
        if run not in self.step.leaves:
            raise EngineError(f"{run} did not run when the original was recorded; record and edit the same way")
        return self.step.leaves[run]

    def renew(self, name: str, *tensors: Tensor) -> None:
        """Note what the leaf whose memory was recalled last under this name would remember of the active sites."""
        if self.fresh is not None:
            self.fresh.leaves[_key(name, self.runs[name])] = tuple(tensor.detach().clone() for tensor in tensors)

    def _run(self, name: str) -> str:
        """The key of a leaf's next run."""
        self.runs[name] = self.runs.get(name, 0) + 1
        return _key(name, self.runs[name])

    def linear(self, rows: Tensor, owner: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
        """rows [..., I] times weight [O, I] of module `owner`, plus bias [O]."""
        if self.packed is None:
            return F.linear(rows, weight, bias)
        return self.packed.linear(rows, owner, weight, bias)

    def project(self, rows: Tensor, layer: nn.Linear) -> Tensor:
        """What a linear layer makes of rows [..., I], without asking the module."""
        return self.linear(rows, layer, layer.weight, layer.bias)

    @property
    def pyramid(self) -> SitePyramid:
        if self.sites is None:
            raise EngineError("a thin leaf ran in a dense call")
        return self.sites


def _key(name: str, run: int) -> str:
    """A module used twice in one call is `name`, then `name#2`."""
    return name if run == 1 else f"{name}#{run}"


class Leaf(ABC):
    """A module that looks across pixels. `dense` is its forward as it was before the swap."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.dense: Callable[..., Tensor] = module.forward

    @abstractmethod
    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The dense forward on [B, C, H, W] (or tokens [B, T, C]); what thin passes need goes into `call.step`."""

    @abstractmethod
    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The same operation for the active sites [B, C, N, 1] (or tokens [B, N, C])."""

    def reach(self, memory: Memory) -> Window | None:
        """The window through which a thin pass sees a remembered map; None where it reads all that is remembered."""
        return None

    def write(self, memory: Memory, sites: SitePyramid, fresh: tuple[Tensor, ...]) -> None:
        """Write what a thin pass made anew into the memory it read."""
        memory.write(sites.level(memory.size).index, *fresh)

    def counts(self, memory: Memory) -> bool:
        """Whether a thin pass sums over its sites, so that none of them may be there twice."""
        return False


@dataclass
class KernelMatrix:
    """A convolution's weight [O, I, kh, kw] as the matrix [O, kh*kw*I] that meets gathered rows.

    A view when the weight lies in channels-last memory, else a copy, made again when the weight has moved.
    """

    conv: nn.Conv2d
    key: tuple[int, torch.dtype, torch.device] | None = None
    matrix: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self) -> Tensor:
        weight = self.conv.weight
        if weight.is_contiguous(memory_format=torch.channels_last):
            return weight.permute(0, 2, 3, 1).flatten(1)
        if torch.compiler.is_compiling():  # which cannot compare addresses, and comes after a call that did
            return self.matrix
        key = (weight.data_ptr() if not weight.is_meta else 0, weight.dtype, weight.device)
        if key != self.key:
            self.key, self.matrix = key, weight.permute(0, 2, 3, 1).flatten(1)
        return self.matrix


class Convolution(Leaf):
    """A k x k convolution of any stride, zero padding and dilation.

    `padding` (top, bottom, left, right) is given where the module around the convolution pads by itself, as the
    VAE's asymmetric down-sampling does.
    """

    def __init__(
        self, name: str, module: nn.Module, conv: nn.Conv2d, padding: tuple[int, int, int, int] | None = None
    ) -> None:
        super().__init__(name, module)
        self.conv = conv
        height, width = cast(tuple[int, int], conv.padding)
        self.padding = padding or (height, height, width, width)
        self.matrix = KernelMatrix(conv)
        self.pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and not any(self.padding)
        self._windows: dict[tuple[Size, Size], Window] = {}

    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self.pointwise:
            call.remember(self.name, Memory((map_rows(x),), _size(x)))
        y = self.dense(x, *args, **kwargs)
        call.resolution = _size(y)
        return y

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return thin(self.on_rows(call, thin_rows(x)))

    def on_rows(self, call: Call, rows: Tensor) -> Tensor:
        """`thin` on rows [B, N, I] -> [B, M, O]."""
        if not self.pointwise:
            memory = call.recall(self.name)
            call.renew(self.name, rows)
            rows = gather_window(rows, memory, call.pyramid, self.reach(memory))
        return call.linear(rows, self.conv, self.matrix(), self.conv.bias)

    def reach(self, memory: Memory) -> Window:
        return self.window(memory.size, memory.size)

    def window(self, source: Size, grid: Size) -> Window:
        if (source, grid) not in self._windows:
            self._windows[source, grid] = Window(
                source,
                grid,
                cast(Size, self.conv.kernel_size),
                cast(Size, self.conv.stride),
                cast(Size, self.conv.dilation),
                self.padding,
            )
        return self._windows[source, grid]


class UpSampling(Leaf):
    """Nearest up-sampling, with the convolution that follows it where the module has one.

    The window slides over the up-sampled grid but reads the small map, so neither the big map nor its rows exist.
    """

    def __init__(self, name: str, module: nn.Module, conv: nn.Conv2d | None) -> None:
        super().__init__(name, module)
        self.inner = Convolution(f"{name}.conv", conv, conv) if conv is not None else None

    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.dense(x, *args, **kwargs)
        call.resolution = _size(y)
        call.remember(self.name, Memory((map_rows(x),), _size(x), grid=_size(y)))
        return y

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        memory, rows = call.recall(self.name), thin_rows(x)
        call.renew(self.name, rows)
        rows = gather_window(rows, memory, call.pyramid, self.reach(memory))
        if self.inner is None:
            return thin(rows)
        return thin(call.linear(rows, self.inner.conv, self.inner.matrix(), self.inner.conv.bias))

    def reach(self, memory: Memory) -> Window:
        grid = memory.grid or memory.size
        return Window(memory.size, grid) if self.inner is None else self.inner.window(memory.size, grid)


class Linear(Leaf):
    """A linear layer: point-wise, and a leaf only where its weight is packed."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name, module)
        self.layer = module

    def record(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.dense(x, *args, **kwargs)

    def thin(self, call: Call, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return call.project(x, self.layer)


def gather_window(rows: Tensor, memory: Memory, pyramid: SitePyramid, window: Window) -> Tensor:
    """Rows [B, N, C] of active source sites -> what each active output site sees, [B, M, kh*kw*C]."""
    plan = pyramid.neighbours(window)
    batch, count, channels = rows.shape
    active = pyramid.level(window.source).count
    if count != active:
        raise EngineError(
            f"a map of {window.source[1]}x{window.source[0]} with {active} active sites arrives as {count} rows: "
            "the model moves or resizes pixels outside of the modules that the engine knows"
        )
    source = torch.cat([rows, *(piece.to(rows.dtype) for piece in memory.around(plan.halo))], 1)
    if source.device.type == "cpu":  # where whole rows are copied twice as fast along the first dimension
        seen = source.flatten(0, 1).index_select(0, plan.of_batch(batch, source.shape[1]))
    else:
        seen = source.index_select(1, plan.gather)
    return seen.view(batch, -1, window.kernel[0] * window.kernel[1] * channels)


def _size(x: Tensor) -> Size:
    return (x.shape[2], x.shape[3])
