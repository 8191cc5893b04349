"""One context manager per way of running a model; inside it the leaves are swapped, afterwards nothing is left.

`record` runs the model densely and remembers, `sparse` runs it on active sites, `renewing` too and holds what it makes,
`alongside` does the first two in one batch, and `leaving_out` runs it densely at some calls alone.
The swap sets an instance attribute `forward` on the leaves, on blocks that run as one and on the model's edge and takes
it away again: classes, parameters, hooks and attention processors are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from sparsedit.sparse.batch import RowPicker
from sparsedit.sparse.cache import ActivationCache, Remembered, Renewable
from sparsedit.sparse.foretelling import Foretelling, foretold
from sparsedit.sparse.graphs import ThinGraphs
from sparsedit.sparse.packing import PackedWeights
from sparsedit.sparse.renewal import Renewal
from sparsedit.sparse.sites import SitePyramid
from sparsedit.sparse.surface import Observe, Surface


@contextmanager
def record(
    model: nn.Module, cache: ActivationCache, *, moments: bool = False, foretelling: Foretelling | None = None
) -> Iterator[ActivationCache]:
    """Run `model` densely and remember every call as one step of `cache`.

    `model` is any module whose first input is [B, C, H, W] and whose leaves are known: UNets, ControlNets, the
    encoder and decoder of a VAE. Outputs are those of the model untouched. What the cache held before is forgotten
    when the context is entered, not before the model was found fit. With `moments` the thin passes' group norms follow
    what an edit does to a map's statistics; without, they keep the original's. Of the calls that `foretelling` answers
    nothing is remembered.

    Raises EngineError naming every leaf the engine does not know, or when the model is in such a context already.
    """
    surface = Surface(model, moments=moments)
    with surface.swapped(foretold(foretelling, surface.recorder(cache))):
        cache.clear()
        yield cache


@contextmanager
def sparse(
    model: nn.Module,
    cache: Remembered,
    sites: SitePyramid,
    *,
    packed: PackedWeights | None = None,
    graphs: ThinGraphs | None = None,
    foretelling: Foretelling | None = None,
) -> Iterator[None]:
    """Run `model` on the active sites alone, with the n-th call reading the n-th step of `cache`.

    Inputs and outputs keep their full shapes; outside the active sites the output is bit for bit the remembered
    one. Prompts may differ from the recorded ones; size, batch and timesteps may not. `packed` holds weights re-ordered
    for the CPU from one context to the next, `graphs` CUDA graphs of thin calls, which are replayed where they fit.
    Calls that `foretelling` answers are not run and read no step.

    Raises EngineError as `record` does and when a call does not fit its recorded step; CacheError when there are
    more calls than steps. Timesteps that live on a GPU are compared when the context is left: comparing them at once
    would make the processor wait at every call.
    """
    surface = Surface(model, packed, graphs=graphs)
    with surface.swapped(foretold(foretelling, surface.thinner(cache, sites))):
        yield
    surface.check_timesteps()


@contextmanager
def renewing(
    model: nn.Module,
    cache: Renewable,
    sites: SitePyramid,
    *,
    packed: PackedWeights | None = None,
    foretelling: Foretelling | None = None,
) -> Iterator[Renewal]:
    """As `sparse`, and hold what the thin pass makes anew; its `write()` then makes the recording that of the edit.

    Raises as `sparse`.
    """
    surface = Surface(model, packed)
    renewal = Renewal(cache, sites, surface.leaves, cache.texts.child())
    with surface.swapped(foretold(foretelling, surface.renewer(renewal))):
        yield renewal
    surface.check_timesteps()


@contextmanager
def leaving_out(model: nn.Module, foretelling: Foretelling, *, lone: bool = False) -> Iterator[None]:
    """Run `model` densely as it is, but for the calls that `foretelling` answers.

    With `lone` the run starts where its original's did, in batches of two rows, and the first row of its first call, a
    negative prompt's, is the original's own: that call is made of the second row alone. Raises as `record`.
    """
    surface = Surface(model)

    def edge(*args: Any, **kwargs: Any) -> Any:
        if lone and foretelling.call == 1:
            args, kwargs = RowPicker(2)(1, args, kwargs)
            return foretelling.beside_first(surface.dense(*args, **kwargs))
        return surface.dense(*args, **kwargs)

    with surface.swapped(foretelling.over(edge)):
        yield


@contextmanager
def alongside(
    model: nn.Module,
    sites: Sequence[SitePyramid],
    observe: Observe | None = None,
    *,
    packed: PackedWeights | None = None,
    moments: bool = False,
    graphs: ThinGraphs | None = None,
) -> Iterator[ActivationCache]:
    """Run an original and its variants in one batch: one dense row, one thin row per pyramid in `sites`.

    The batch is laid out as pipelines lay it out, [original, variant 1, ..., variant k], repeated for every half
    of classifier-free guidance. The dense row fills a cache that lives for one call. Variants that differ in their
    pixels alone run together, as one thin image. `observe(rows)`, when given, is entered around the work of these
    rows (0 = the original), for clocks. Yields that cache, whose `peak_bytes` says how large it grew.
    """
    surface = Surface(model, packed, moments, graphs)
    cache = ActivationCache()
    with surface.swapped(surface.lockstep(cache, sites, observe or (lambda _: nullcontext()))):
        yield cache
