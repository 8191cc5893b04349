"""One context manager per way of running a model; inside it the leaves are swapped, afterwards nothing is left.

`record` runs the model densely and remembers, `sparse` runs it on active sites, `renewing` too and holds what it makes,
`alongside` does the first two in one batch, and `leaving_out` runs it densely at some calls alone.
The swap sets an instance attribute `forward` on the leaves, on blocks that run as one and on the model's edge and takes
it away again: classes, parameters, hooks and attention processors are never touched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse.batch import Grouping, RowPicker, interleave
from sparsedit.sparse.blocks import Block, find_blocks
from sparsedit.sparse.cache import ActivationCache, Remembered, Renewable, Step, TextMemory
from sparsedit.sparse.fit import check_fit, check_timestep
from sparsedit.sparse.foretelling import Foretelling, foretold
from sparsedit.sparse.forward import Swapped, answering
from sparsedit.sparse.graphs import ThinGraphs
from sparsedit.sparse.leaves import Call, Leaf
from sparsedit.sparse.offload import offloaded, onloaded
from sparsedit.sparse.packing import PackedWeights
from sparsedit.sparse.renewal import Fresh, Renewal
from sparsedit.sparse.rooms import Rooms
from sparsedit.sparse.rows import gather, map_tensors, scatter, tensors_of
from sparsedit.sparse.sites import SitePyramid
from sparsedit.sparse.survey import find_leaves

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Observe = Callable[[Sequence[int]], AbstractContextManager[Any]]

_SWAPPING = Lock()
"""Held from looking whether a model is in a context until it is in this one: another thread may want it too."""


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


class Surface:
    """A model's leaves and its edge: where full tensors become thin ones and back."""

    def __init__(
        self,
        model: nn.Module,
        packed: PackedWeights | None = None,
        moments: bool = False,
        graphs: ThinGraphs | None = None,
    ) -> None:
        self.model = model
        self.packed = packed
        self.moments = moments
        self.graphs = graphs
        self.leaves = find_leaves(model, linears=packed is not None)
        self.blocks = find_blocks(model, self.leaves)
        self.dense: Callable[..., Any] = model.forward
        self.signature = inspect.signature(model.forward)
        self.call: Call | None = None
        self.rooms = Rooms()
        self.unchecked: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def swapped(self, edge: Callable[..., Any]) -> Iterator[None]:
        """Swap the leaves and let `edge` answer for the model, until the block is left however it is left.

        Raises EngineError for a model that is in a context, or a part of which is.
        """
        with ExitStack() as undo:
            with _SWAPPING:
                if any(isinstance(vars(module).get("forward"), Swapped) for module in self.model.modules()):
                    raise EngineError(
                        f"this {type(self.model).__name__} is already inside record(), sparse() or alongside(); "
                        "leave that first"
                    )
                elsewhere = offloaded(self.model)
                for leaf in self.leaves:
                    own = offloaded(leaf.module) if elsewhere else []
                    undo.enter_context(answering(leaf.module, Swapped(self._run(leaf, own))))
                for block in self.blocks:
                    undo.enter_context(answering(block.module, Swapped(self._run_block(block))))
                self.dense = self.model.forward  # as it is now: the model may itself be a leaf
                undo.enter_context(answering(self.model, Swapped(self._own(edge))))
            yield

    def _own(self, edge: Callable[..., Any]) -> Callable[..., Any]:
        """`edge` for this thread alone: another one's calls would be taken for the next step of this one's."""
        owner = get_ident()

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if get_ident() != owner:
                kind = type(self.model).__name__
                raise EngineError(f"this {kind} is inside a context of another thread; give each thread its own model")
            return edge(*args, **kwargs)

        return guarded

    def recorder(self, cache: ActivationCache) -> Callable[..., Any]:
        def edge(*args: Any, **kwargs: Any) -> Any:
            return self.record_call(cache, args, kwargs)

        return edge

    def thinner(self, cache: Remembered, sites: SitePyramid) -> Callable[..., Any]:
        texts = cache.texts.child()
        calls = 0

        def edge(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            out = self.thin_call(cache.step(calls), texts, sites, args, kwargs)
            calls += 1
            return out

        return edge

    def renewer(self, renewal: Renewal) -> Callable[..., Any]:
        def edge(*args: Any, **kwargs: Any) -> Any:
            step, fresh = renewal.cache.step(len(renewal.calls)), Fresh()
            (out,) = self.thin_calls(step, renewal.texts, renewal.sites, [(args, kwargs)], fresh)
            renewal.calls.append(fresh)
            return out

        return edge

    def lockstep(self, cache: ActivationCache, sites: Sequence[SitePyramid], observe: Observe) -> Callable[..., Any]:
        pick = RowPicker(1 + len(sites))
        grouping = Grouping(sites, apart=self.moments or self.graphs is not None)

        def edge(*args: Any, **kwargs: Any) -> Any:
            cache.steps.clear()
            original, *variants = (pick(row, args, kwargs) for row in range(1 + len(sites)))
            with observe([0]):
                outputs = {0: self.record_call(cache, *original)}
            for rows, pyramid in grouping(variants):
                with observe(rows):
                    done = self.thin_calls(cache.step(0), cache.texts, pyramid, [variants[row - 1] for row in rows])
                outputs |= zip(rows, done, strict=True)
            cache.steps.clear()
            return interleave([outputs[row] for row in range(1 + len(sites))])

        return edge

    def record_call(self, cache: ActivationCache, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One dense call, appended to the cache once it has succeeded."""
        x, timestep = self._inputs(args, kwargs)
        step = Step((x.shape[2], x.shape[3]), x.shape[0], x.dtype, x.device, timestep)
        with self._during(Call(step, cache.texts, moments=self.moments, resolution=step.size)):
            out = self.dense(*args, **kwargs)
        for tensor in tensors_of(out):
            if tensor.ndim != 4:
                kind, shape = type(self.model).__name__, list(tensor.shape)
                raise EngineError(f"{kind} returns a tensor {shape}; the engine knows maps [B, C, H, W] alone")
            step.outputs.append(tensor.detach().clone(memory_format=torch.contiguous_format))
        cache.append(step)
        return out

    def thin_call(
        self, step: Step, texts: TextMemory, sites: SitePyramid, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One call on the active sites, its result written over the remembered output of the step."""
        (out,) = self.thin_calls(step, texts, sites, [(args, kwargs)])
        return out

    def thin_calls(
        self,
        step: Step,
        texts: TextMemory,
        sites: SitePyramid,
        calls: Sequence[Arguments],
        fresh: Fresh | None = None,
    ) -> list[Any]:
        """The same for calls that differ in their maps alone, one for each part of the sites."""
        for args, kwargs in calls:
            self._check(step, *self._inputs(args, kwargs))
        if self.graphs is not None and not sites.empty:
            return [self.graphs.call(self, step, texts, sites, *calls[0])]
        return self.thin_pass(
            Call(step, texts, sites.to(step.device), self.packed, fresh=fresh, rooms=self.rooms), calls
        )

    def thin_pass(self, call: Call, calls: Sequence[Arguments]) -> list[Any]:
        """The device's part of thin calls: it depends on shapes alone and never waits, so a CUDA graph can hold it."""
        pyramid = call.pyramid
        columns = zip(*(tensors_of(arguments) for arguments in calls), strict=True)
        thin = iter([gather(tensors, pyramid) if tensors[0].ndim == 4 else tensors[0] for tensors in columns])
        args, kwargs = map_tensors(calls[0], lambda _: next(thin))
        with self._during(call):
            out = self.dense(*args, **kwargs)
        if call.fresh is not None:
            call.fresh.outputs = [tensor.detach() for tensor in tensors_of(out)]
        written = [scatter(*pair, pyramid) for pair in zip(tensors_of(out), call.step.outputs, strict=True)]

        def part(number: int) -> Any:
            own = iter(written)
            return map_tensors(out, lambda _: next(own)[number])

        return [part(number) for number in range(len(calls))]

    def check_timesteps(self) -> None:
        """Raise EngineError for the first call since the last check that ran at another timestep than its step."""
        unchecked, self.unchecked = self.unchecked, []
        for expected, timestep in unchecked:
            check_timestep(expected, timestep)

    @contextmanager
    def _during(self, call: Call) -> Iterator[None]:
        self.call = call
        try:
            yield
        finally:
            self.call = None

    def _run(self, leaf: Leaf, elsewhere: list[nn.Module]) -> Callable[..., Tensor]:
        """A leaf's forward, the weights of the modules that lie `elsewhere` brought for it."""

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            call = self.call
            if call is None:
                return leaf.dense(*args, **kwargs)
            if not args:
                args = (kwargs.pop(next(iter(inspect.signature(leaf.dense).parameters))),)
            run = leaf.record if call.sites is None else leaf.thin
            if not elsewhere:
                return run(call, *args, **kwargs)
            with onloaded(elsewhere):
                return run(call, *args, **kwargs)

        return forward

    def _run_block(self, block: Block) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self.call
            if call is None or call.sites is None:
                return block.dense(*args, **kwargs)
            return block.thin(call, *args, **kwargs) if args else block.dense(**kwargs)

        return forward

    def _check(self, step: Step, x: Tensor, timestep: Tensor | None) -> None:
        """Raise EngineError for inputs that do not fit their step; timesteps on a GPU are left for later."""
        check_fit(step, x, timestep)
        if timestep is not None and step.timestep is not None and not timestep.is_meta:
            self.unchecked.append((step.timestep, timestep))
            if {timestep.device.type, step.timestep.device.type} == {"cpu"}:
                self.check_timesteps()

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The image input of a call and its timestep, where the model takes one."""
        bound = self.signature.bind(*args, **kwargs).arguments
        x = next(iter(bound.values()), None)
        if not isinstance(x, Tensor) or x.ndim != 4:
            raise EngineError(f"the first input of {type(self.model).__name__} must be a tensor [B, C, H, W]")
        timestep = bound.get("timestep")
        return x, None if timestep is None else torch.as_tensor(timestep).detach().clone()
