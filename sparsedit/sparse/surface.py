"""A model as the engine's contexts see it: its leaves, its edge, and what one call of it does in each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock, get_ident
from typing import Any

import torch
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse.batch import Grouping, RowPicker, interleave
from sparsedit.sparse.blocks import Block, find_blocks
from sparsedit.sparse.cache import ActivationCache, Remembered, Step, TextMemory
from sparsedit.sparse.fit import check_fit, check_timestep
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
