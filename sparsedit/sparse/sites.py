"""Which pixels of each feature map are active, and where every tap of a kernel finds its row.

A mask of the edit is given once, at any resolution of the model. From it follow, on demand and kept, the active
sites of every other resolution (`SitePyramid.level`) and the plan of every k x k neighbourhood
(`SitePyramid.neighbours`). Geometry only: nothing here knows weights, models or tasks.

Reckoned with NumPy on one core: arrays are small, and torch's threads cost more to wake than there is to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedit.errors import EngineError

Size = tuple[int, int]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sites:
    """The active pixels of one resolution.

    `index` [N] holds their flat row-major positions in ascending order; `position` [H*W] is the inverse, the row of
    each pixel among the active ones or -1. Plans are made on the CPU, so `position` stays there.
    """

    size: Size
    index: Tensor
    position: Tensor

    @classmethod
    def from_mask(cls, mask: Tensor) -> Sites:
        """Sites of a bool mask [H, W]."""
        index = np.flatnonzero(mask.numpy())
        position = np.full(mask.numel(), -1, dtype=np.int32)  # a large map: half the memory to touch
        position[index] = np.arange(len(index), dtype=np.int32)
        return cls((mask.shape[0], mask.shape[1]), torch.from_numpy(index), torch.from_numpy(position))

    @property
    def count(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Window:
    """A k x k window sliding over a source map, which may first be up-sampled (nearest) to `grid`.

    `padding` is (top, bottom, left, right) in zeros, `grid` the size the window really slides over.
    """

    source: Size
    grid: Size
    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    dilation: Size = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def output(self) -> Size:
        """Size of the map the window produces, as torch.nn.Conv2d defines it."""
        top, bottom, left, right = self.padding
        return (
            (self.grid[0] + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1,
            (self.grid[1] + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1,
        )


@dataclass(frozen=True)
class Neighbours:
    """Where each tap of each active output site reads.

    `gather` [N * kh * kw] indexes the rows of `cat(active rows, halo rows, one zero row)` of the source map; `halo`
    [M] holds the flat source positions whose remembered rows are needed.
    """

    gather: Tensor
    halo: Tensor
    _batches: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def of_batch(self, batch: int, rows: int) -> Tensor:
        """`gather` for a batch of such pictures, one after the other: [B * N * kh * kw] into B times so many `rows`."""
        if batch == 1:
            return self.gather
        if batch not in self._batches:
            first = rows * torch.arange(batch, device=self.gather.device)
            self._batches[batch] = (first[:, None] + self.gather).flatten()
        return self._batches[batch]


class SitePyramid:
    """Active sites of every resolution of a model, and the neighbour plans between them.

    A coarser site is active when any pixel below it is; a finer one when the pixel above it is. `level_dilation`
    grows the sites of each resolution other than the mask's own. Levels and plans are computed once.
    """

    def __init__(self, mask: Tensor, level_dilation: int = 0, device: torch.device | None = None) -> None:
        self.mask = mask
        self.level_dilation = level_dilation
        self.device = device or torch.device("cpu")
        self.empty = not mask.numpy().any()
        self._host: dict[Size, Sites] = {}
        self._host_plans: dict[Window, Neighbours] = {}
        self._levels: dict[Size, Sites] = {}
        self._plans: dict[Window, Neighbours] = {}
        self._moved: dict[torch.device, SitePyramid] = {}

    @classmethod
    def from_mask(cls, mask: Tensor, *, dilation: int = 0, level_dilation: int = 0) -> SitePyramid:
        """Pyramid of a bool mask [H, W].

        The mask may be given at the model's input resolution or any finer or coarser one it works at (the pixels
        of the picture, for a UNet on latents). `dilation` grows the mask itself, `level_dilation` each derived
        resolution, both by a square of that many sites.

        Raises EngineError when the mask is not a bool tensor [H, W].
        """
        if mask.dtype != torch.bool or mask.ndim != 2 or mask.numel() == 0:
            shape = list(mask.shape)
            raise EngineError(f"a site mask must be a bool tensor [H, W] with pixels in it, not {mask.dtype} {shape}")
        return cls(dilate(mask.detach().cpu(), dilation), level_dilation)

    @property
    def size(self) -> Size:
        return (self.mask.shape[0], self.mask.shape[1])

    @property
    def maps(self) -> list[Size]:
        """The sizes of the maps whose sites have been asked for, here or on another device."""
        return list(self._host)

    @property
    def windows(self) -> list[Window]:
        """The windows whose plans have been asked for, here or on another device."""
        return list(self._host_plans)

    def to(self, device: torch.device) -> SitePyramid:
        """The same pyramid with indices on `device`."""
        if device == self.device:
            return self
        if device not in self._moved:
            moved = SitePyramid(self.mask, self.level_dilation, device)
            moved._host, moved._host_plans = self._host, self._host_plans
            self._moved[device] = moved
        return self._moved[device]

    def level(self, size: Size) -> Sites:
        """Active sites of the map of that size, on the pyramid's device.

        Where nothing is active one ghost site stands in, so that no kernel sees an empty tensor; `empty` says so
        and nothing of it reaches an output. Raises EngineError for a size that halving or doubling cannot reach.
        """
        if size not in self._levels:
            host = self._host_level(size)
            self._levels[size] = Sites(size, send(host.index, self.device), host.position)
        return self._levels[size]

    @property
    def parts(self) -> Sequence[SitePyramid]:
        """The pyramids whose sites lie one after the other in this one: itself, but for a joint one."""
        return (self,)

    def slices(self, size: Size) -> list[slice]:
        """Where each part's sites lie in the level of that size."""
        return [slice(0, self.level(size).count)]

    def fraction(self, size: Size) -> float:
        """Share of active sites in the map of that size, 0 to 1."""
        return 0.0 if self.empty else self._host_level(size).count / (size[0] * size[1])

    def neighbours(self, window: Window) -> Neighbours:
        """The plan of a window for the active sites of its output map."""
        if window not in self._plans:
            plan = self._host_plan(window)
            self._plans[window] = Neighbours(send(plan.gather, self.device), send(plan.halo, self.device))
        return self._plans[window]

    def _host_level(self, size: Size) -> Sites:
        if size not in self._host:
            mask = resize_mask(self.mask, size)
            if size != self.size:
                mask = dilate(mask, self.level_dilation)
            if self.empty:
                mask = torch.zeros(size, dtype=torch.bool)
                mask[0, 0] = True
            self._host[size] = Sites.from_mask(mask)
        return self._host[size]

    def _host_plan(self, window: Window) -> Neighbours:
        if window not in self._host_plans:
            out, source = self._host_level(window.output), self._host_level(window.source)
            self._host_plans[window] = plan_neighbours(out, source, window)
        return self._host_plans[window]


def send(indices: Tensor, device: torch.device) -> Tensor:
    """Indices made on the CPU, on `device`; a GPU fetches them from pinned memory while the processor goes on."""
    return indices.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else indices.to(device)


def resize_mask(mask: Tensor, size: Size) -> Tensor:
    """A bool mask [H, W] at another resolution of the same model.

    Coarser: a site is active when any pixel that maps to it is. Models halve odd sizes up (UNets) or down (the
    VAE's encoder); pixels past the last whole cell belong to the last one. Where rounding leaves two answers (5
    sites are 2 after one halving or after two) a site is active by either. Finer: nearest. Raises EngineError when
    no power of two relates the two sizes.
    """
    height, width = mask.shape
    if (height, width) == size:
        return mask
    coarse = np.zeros(size, dtype=bool)
    y, x = np.divmod(np.flatnonzero(mask.numpy()), width)  # a tenth of the time of np.nonzero
    halvings = 0
    for exponent in range(1, max(height, width).bit_length() + 1):
        step = 2**exponent
        if all(out in (n // step, -(-n // step)) for n, out in ((height, size[0]), (width, size[1]))):
            coarse[np.minimum(y >> exponent, size[0] - 1), np.minimum(x >> exponent, size[1] - 1)] = True
            halvings += 1
    if halvings:
        return torch.from_numpy(coarse)
    for exponent in range(1, max(size).bit_length() + 1):
        step = 2**exponent
        if all(n in (out // step, -(-out // step)) for n, out in ((height, size[0]), (width, size[1]))):
            y = (torch.arange(size[0]) // step).clamp(max=height - 1)
            x = (torch.arange(size[1]) // step).clamp(max=width - 1)
            return mask[y][:, x]
    raise EngineError(
        f"a mask of {width}x{height} sites has no level of {size[1]}x{size[0]}: the sizes must be related by halving"
    )


def plan_neighbours(out: Sites, source: Sites, window: Window) -> Neighbours:
    """Resolve every tap of every active output site to an active row, a halo row or the zero row.

    Pure integer geometry on the CPU; `source` must be the sites of `window.source`, `out` those of `window.output`.
    """
    index, position = out.index.numpy(), source.position.numpy()
    rows, inside_y = _taps(index // out.size[1], window, axis=0)
    columns, inside_x = _taps(index % out.size[1], window, axis=1)
    flat = (rows[:, :, None] * window.source[1] + columns[:, None, :]).ravel()
    outside = ~(inside_y[:, :, None] & inside_x[:, None, :]).ravel()
    gather = position.take(flat).astype(np.int64)
    gather[outside] = 0  # no halo, whatever lies there
    missing = np.flatnonzero(gather < 0)
    wanted = flat[missing]
    first = wanted.min(initial=len(position))
    needed = np.zeros(wanted.max(initial=first) + 1 - first, dtype=bool)  # of the rows of pixels around the edit
    needed[wanted - first] = True
    halo = np.flatnonzero(needed)
    row_of = np.empty(len(needed), dtype=np.int64)
    row_of[halo] = source.count + np.arange(len(halo))
    gather[missing] = row_of[wanted - first]
    halo += first
    gather[outside] = source.count + len(halo)
    return Neighbours(torch.from_numpy(gather), torch.from_numpy(halo))


def _taps(coordinate: Indices, window: Window, axis: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Source coordinates [N, k] that the taps of output coordinates [N] read, and whether they lie in the map."""
    before = window.padding[2 * axis]
    offset = np.arange(window.kernel[axis]) * window.dilation[axis] - before
    grid = coordinate[:, None] * window.stride[axis] + offset
    inside = (grid >= 0) & (grid < window.grid[axis])
    parent = nearest_parents(window.source[axis], window.grid[axis]).numpy()
    return parent.take(grid, mode="clip"), inside


def nearest_parents(source: int, grid: int) -> Tensor:
    """For each of `grid` coordinates the one of `source` that nearest up-sampling copies, in torch's own rounding."""
    line = torch.arange(source, dtype=torch.float32)[None, None]
    return F.interpolate(line, size=grid, mode="nearest")[0, 0].long()


def dilate(mask: Tensor, sites: int) -> Tensor:
    """A bool mask [H, W] grown by a square: active within `sites` of an active one, diagonals included."""
    if sites <= 0:
        return mask
    grown = mask.numpy()
    for axis in (0, 1):
        reach, wanted = 0, min(sites, grown.shape[axis])
        while reach < wanted:
            # What reaches r to one side leaves no gap when it is moved by up to r + 1.
            step = min(reach + 1, wanted - reach)
            ahead, behind = np.moveaxis(grown, axis, 0)[step:], np.moveaxis(grown, axis, 0)[:-step]
            grown = grown.copy()
            line = np.moveaxis(grown, axis, 0)
            line[:-step] |= ahead
            line[step:] |= behind
            reach += step
    return torch.from_numpy(grown)
