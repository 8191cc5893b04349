"""A recording with damaged steps made whole, without recording all of it again.

The run that was recorded is made once more. At its intact steps the model answers with what it remembers, which costs
next to nothing; so it arrives at a damaged step with the very inputs that were recorded, runs densely there alone, and
remembers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as remembering
from itertools import count
from typing import Any, Protocol

import torch
from torch import nn

from sparsedit.errors import DamagedError
from sparsedit.sparse.cache import ActivationCache, Remembered, Step
from sparsedit.sparse.sites import SitePyramid, Size
from sparsedit.sparse.surface import Surface


class Mendable(Remembered, Protocol):
    """A recording whose `step` raises DamagedError for what is not as it was recorded."""

    def mend(self, number: int, step: Step) -> None:
        """Hold a step in the place of a damaged one."""
        ...


@contextmanager
def mending(model: nn.Module, cache: Mendable, *, moments: bool = False) -> Iterator[list[int]]:
    """Run `model` over a recording's steps, densely where they are damaged; these are recorded again.

    The calls must be those that were recorded, in their order. Yields the numbers of the steps mended so far. A
    recording cut down to the rows around some masks cannot be mended: even to answer from memory takes one site's rows.
    Raises EngineError as `record` and `sparse` do.
    """
    surface, calls, mended = Surface(model, moments=moments), count(), list[int]()

    @remembering
    def nowhere(size: Size) -> SitePyramid:
        """No sites, laid out once for all calls."""
        return SitePyramid(torch.zeros(size, dtype=torch.bool))

    def edge(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        try:
            step = cache.step(number)
        except DamagedError:
            anew = ActivationCache()
            anew.texts = cache.texts
            out = surface.record_call(anew, args, kwargs)
            cache.mend(number, anew.step(0))
            mended.append(number)
            return out
        return surface.thin_call(step, cache.texts, nowhere(step.size), args, kwargs)

    with surface.swapped(edge):
        yield mended
    surface.check_timesteps()
