"""What runs leave: `Result` of an edit, `Recorded` of an original."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from sparsedit.images import to_image
from sparsedit.measure.clock import Clock
from sparsedit.plan import Plan, Request
from sparsedit.sparse import ActivationCache
from sparsedit.trajectory import Trajectory

if TYPE_CHECKING:
    from sparsedit.cache.shelf import Shelf
    from sparsedit.tasks.canvas import Canvas


@dataclass(frozen=True)
class Result:
    """A finished edit.

    `picture` is the composited result [1, 3, H, W] in [-1, 1], `generated` the decoder's output before that,
    `mask` (bool [H, W]) where it may differ from the picture being edited. `way` is what really ran and `reason`
    why, where that is not what was asked for. `clock` holds the seconds of the edit's own stages; `dense_calls` of its
    UNet calls were dense though others were thin, `left_out_calls` were not made but foretold, and `lone_calls` of the
    dense ones made without the negative prompt's row, which was the original's. In a series it may have taken two thin
    `passes`: one that makes the picture, and one that writes it into the recording. `image` is the picture in 8 bits,
    the same object at every look.
    """

    picture: Tensor
    generated: Tensor
    latents: Tensor | None
    mask: Tensor
    way: str
    reason: str | None
    plan: Plan
    clock: Clock
    dense_calls: int = 0
    left_out_calls: int = 0
    lone_calls: int = 0
    passes: int = 1

    @cached_property
    def image(self) -> Image.Image:
        return to_image(self.picture)


@dataclass
class Recorded:
    """What a recording left: the request, the original's own picture, one cache per stage, and its seconds.

    `kept` are the steps that were recorded, where not all were; the others are interpolated. `shelf` is where it is
    kept for later, and says whether it was taken from there. `trajectory` and `canvas` are there for tasks whose edits
    need them.
    `latest` is the hole (bool [H, W]) of the edit that was written into the caches last. `renewing` is set while one
    is, and stays where that was interrupted.
    """

    request: Request
    picture: Tensor
    clock: Clock
    caches: dict[str, ActivationCache] = field(default_factory=dict)
    kept: tuple[int, ...] | None = None
    shelf: Shelf | None = None
    trajectory: Trajectory | None = None
    canvas: Canvas | None = None
    latest: Tensor | None = None
    renewing: bool = False

    @property
    def loaded(self) -> bool:
        """Whether an earlier process made it."""
        return self.shelf is not None and self.shelf.loaded

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches.values())
