"""Thin calls as CUDA graphs: captured once for sites of about one number, replayed for every step, prompt and mask.

A thin call of a large UNet is thousands of small kernels, and starting them one by one takes the processor longer than
running them takes the GPU. A graph starts them at once. All it reads lies at fixed addresses: its inputs, the sites
(`padding.py`), the memory of one step and of one prompt (`arena.py`). Before a replay they are filled with those of the
call, which takes a few more kernels and no wait. What a graph computes is `Surface.thin_pass`, as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse.arena import Arena, copy_all
from sparsedit.sparse.cache import Step, TextMemory
from sparsedit.sparse.leaves import Call
from sparsedit.sparse.padding import PaddedPyramid
from sparsedit.sparse.rooms import Rooms
from sparsedit.sparse.rows import map_tensors, tensors_of
from sparsedit.sparse.sites import SitePyramid

if TYPE_CHECKING:
    from sparsedit.sparse.surface import Surface

Capture = Callable[[Callable[[], Any], torch.device], tuple[Callable[[], None], Any]]
"""Turns a function on a device into one that runs it again, and the results that doing so fills anew."""

KEPT = 8
"""Graphs of one model that are kept, the last used ones."""
WARM_UPS = 2
"""Runs before a capture: kernels are chosen and workspaces made at the first, and a capture may do neither."""


class CudaCapture:
    """Captures with torch.cuda.graph; all graphs share one pool of memory, as only one of them runs at a time.

    With `compiled` torch.compile fuses the small kernels first, which takes minutes for a large model and rounds
    otherwise than the model's own operators.
    """

    def __init__(self, compiled: bool = False) -> None:
        self._compiled = compiled
        self._pool: Any = None

    def __call__(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
        if device.type != "cuda":
            raise EngineError(f"CUDA graphs need a CUDA GPU and this model is on {device}; run it without graphs")
        with torch.cuda.device(device):
            if self._compiled:
                function()  # lays out what the compiler need not see
                function = torch.compile(function, fullgraph=True, dynamic=False)
            for _ in range(WARM_UPS):
                function()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                results = function()
        return graph.replay, results


class Inputs:
    """The arguments of one call of a model: its tensors in order, the prompt among them, and the shape of it all."""

    def __init__(self, surface: Surface, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = surface.signature.bind(*args, **kwargs)
        if bound.arguments.get("timestep") is not None:
            # A number would be a constant of the graph, and copied from the processor's memory by the model.
            bound.arguments["timestep"] = torch.as_tensor(bound.arguments["timestep"])
        self.prompt: Tensor | None = bound.arguments.get("encoder_hidden_states")
        self.nest = (bound.args, bound.kwargs)
        self.tensors = tensors_of(self.nest)
        self.shape = map_tensors(self.nest, lambda tensor: (tuple(tensor.shape), tensor.dtype))


class ThinGraph:
    """One captured thin call, and everything it reads: fixed inputs, padded sites, an arena."""

    def __init__(self, surface: Surface, inputs: Inputs, step: Step, sites: SitePyramid, like: Arena | None) -> None:
        self.surface = surface
        self.leaves = surface.leaves  # whose kernel matrices the graph may read
        self.shape = inputs.shape
        self.nest = map_tensors(inputs.nest, lambda tensor: torch.empty_like(tensor, device=step.device))
        exact = any(leaf.counts(step.leaves[leaf.name]) for leaf in self.leaves if leaf.name in step.leaves)
        self.pyramid = PaddedPyramid(sites, step.device, exact)
        self.arena = Arena(step, self.leaves, self.pyramid, like)
        self.rooms = Rooms()
        self.replay: Callable[[], None] | None = None
        self.results: Any = None

    def fits(self, inputs: Inputs, step: Step, sites: SitePyramid) -> bool:
        """Whether a call can be answered by this graph."""
        return inputs.shape == self.shape and self.arena.takes(step) and self.pyramid.fits(sites)

    def load(self, surface: Surface, inputs: Inputs, step: Step, texts: TextMemory, sites: SitePyramid) -> None:
        """Bring in what the next replay is to compute with."""
        self.surface = surface
        pairs = []
        for room, tensor in zip(tensors_of(self.nest), inputs.tensors, strict=True):
            if tensor.device == room.device:
                pairs.append((room, tensor))
            elif tensor.numel() == 1:
                room.fill_(tensor.item())  # of the processor's own memory: a copy would wait for the GPU
            else:
                room.copy_(tensor)
        copy_all(pairs)
        self.pyramid.load(sites)
        if inputs.prompt is not None:
            self.arena.texts.load(texts, surface.leaves, inputs.prompt, step)
        self.arena.load(step)

    def run(self) -> Any:
        """The thin pass on what was loaded."""
        args, kwargs = self.nest
        call = Call(self.arena.step, self.arena.texts, self.pyramid, rooms=self.rooms)
        (out,) = self.surface.thin_pass(call, [(args, kwargs)])
        return out


class ThinGraphs:
    """The CUDA graphs of some models' thin calls, captured when a call fits none of them.

    Give one object to every `sparse` or `alongside` context. It holds on to the models it has graphs of; a model's
    graphs are dropped when one of its weights has moved or changed since the context before.
    """

    def __init__(self, capture: Capture | None = None, kept: int = KEPT) -> None:
        self._capture = capture or CudaCapture()
        self._kept = kept
        self._graphs: dict[nn.Module, list[ThinGraph]] = {}
        self._weights: dict[nn.Module, tuple[tuple[int, int], ...]] = {}
        self._checked: dict[nn.Module, Surface] = {}

    def __len__(self) -> int:
        return sum(map(len, self._graphs.values()))

    def call(
        self,
        surface: Surface,
        step: Step,
        texts: TextMemory,
        sites: SitePyramid,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What `surface.thin_pass` returns for these arguments, by a graph.

        Raises EngineError where gradients are wanted, and when the model is not on a CUDA GPU.
        """
        if torch.is_grad_enabled():
            raise EngineError("a CUDA graph has no gradients; call the model inside torch.no_grad()")
        self._drop_stale(surface)
        # Rooms are plain tensors whatever mode the caller is in: those of inference mode cannot be filled outside it.
        with torch.inference_mode(False), torch.no_grad():
            inputs = Inputs(surface, args, kwargs)
            graph = self._find(surface, inputs, step, sites)
            graph.load(surface, inputs, step, texts, sites)
            if graph.replay is None:
                graph.replay, graph.results = self._capture(graph.run, step.device)
            self._keep(surface.model, graph)
            graph.replay()
            return map_tensors(graph.results, Tensor.clone)

    def _find(self, surface: Surface, inputs: Inputs, step: Step, sites: SitePyramid) -> ThinGraph:
        """The graph that fits, else a new one that is still to be captured."""
        own = self._graphs.get(surface.model, [])
        for graph in own:
            if graph.fits(inputs, step, sites):
                return graph
        like = next((graph.arena for graph in own if graph.arena.takes(step)), None)
        return ThinGraph(surface, inputs, step, sites, like)

    def _keep(self, model: nn.Module, graph: ThinGraph) -> None:
        """Put a graph first and let go of the last."""
        others = (other for other in self._graphs.get(model, []) if other is not graph)
        self._graphs[model] = [graph, *others][: self._kept]

    def _drop_stale(self, surface: Surface) -> None:
        """Forget a model's graphs when its weights are not where or what they were; looked at once per context."""
        model = surface.model
        if self._checked.get(model) is surface:
            return
        weights = tuple(
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
            for weight in (*model.parameters(), *model.buffers())
        )
        if self._weights.get(model) != weights:
            self._graphs.pop(model, None)
            self._weights[model] = weights
        self._checked[model] = surface
