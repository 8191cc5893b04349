"""One call of one stage: how long it takes densely and thinly, and what memory.

The inputs are random numbers in the shapes a pipeline gives: what a call costs does not depend on what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import peak_during
from sparsedit.measure.rounds import OnRound, Run, interleave
from sparsedit.schedule import Schedule
from sparsedit.sparse import ActivationCache, PackedWeights, SitePyramid, record, sparse
from sparsedit.sparse.rows import map_tensors
from sparsedit.stages import Stages

CALL = "call"


@dataclass(frozen=True)
class Sampling:
    """How many rounds are kept, and how many are run before them."""

    samples: int = 5
    warmup: int = 1


class StageCall:
    """A model with inputs for one call of it. `args` and `kwargs` give their shapes, on any device."""

    def __init__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], packed: PackedWeights | None = None
    ) -> None:
        self.model = model
        self.packed = packed
        self.cache = ActivationCache()
        example = next(model.parameters())
        self.device, self.dtype = example.device, example.dtype
        generator = torch.Generator().manual_seed(0)

        def real(tensor: Tensor) -> Tensor:
            return torch.randn(tensor.shape, generator=generator).to(self.device, self.dtype)

        self.args, self.kwargs = map_tensors(args, real), map_tensors(kwargs, real)

    def __call__(self) -> None:
        self.model(*self.args, **self.kwargs)

    def dense(self, clock: Clock) -> None:
        """The stock model's call."""
        with torch.inference_mode(), clock.stage(CALL):
            self()

    def record(self) -> float:
        """Remember a dense call, for thin ones; its seconds."""
        clock = Clock(self.device)
        with torch.inference_mode(), record(self.model, self.cache), clock.stage(CALL):
            self()
        self.cache.steps *= 2  # the two calls of a thin run
        return clock.seconds(CALL)

    def thin(self, sites: SitePyramid) -> Run:
        """The thin call in its steady state: the second one in a context, for the first makes plans and re-orders
        weights. `record` must have run."""

        def run(clock: Clock) -> None:
            with torch.inference_mode(), sparse(self.model, self.cache, sites, packed=self.packed):
                self()
                with clock.stage(CALL):
                    self()

        return run


def time_call(call: StageCall, sites: SitePyramid, sampling: Sampling, on_round: OnRound) -> dict[str, Any]:
    """Interleaved samples of the dense and the thin call, with the peak of either and what a step remembers.

    The passes that show the peaks are the first warm-up round.
    """
    peaks = {"dense": peak_during(lambda: call.dense(Clock(call.device)), call.device)}
    record_s = call.record()
    thin = call.thin(sites)
    peaks["sparse"] = peak_during(lambda: thin(Clock(call.device)), call.device)
    clocks = interleave(
        {"dense": call.dense, "sparse": thin},
        call.device,
        samples=sampling.samples,
        warmup=sampling.warmup - 1,
        on_round=on_round,
    )
    timed = {kind: {"seconds": clock.samples[CALL], "peak_bytes": peaks[kind]} for kind, clock in clocks.items()}
    return timed | {"record_s": record_s, "cache_bytes": call.cache.step(0).nbytes}


def time_text(pipelines: Sequence[Stages], sampling: Sampling, on_round: OnRound) -> list[float]:
    """Seconds of encoding one prompt with all text encoders of all pipelines; it has no thin call."""

    def encode(clock: Clock) -> None:
        for stages in pipelines:
            stages.forget_texts()
        with torch.inference_mode(), clock.stage(CALL):
            for stages in pipelines:
                stages.text([""], "", Schedule(1, 1.0, 0.0))

    runs = {"text": encode}
    clocks = interleave(runs, pipelines[0].device, samples=sampling.samples, warmup=sampling.warmup, on_round=on_round)
    return clocks["text"].samples[CALL]
