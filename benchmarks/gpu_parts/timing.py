"""Seconds of a call in every way it can be made, taken in turns, and what each way needs of memory.

One sample is a burst of consecutive calls, as a denoising loop makes them, with one wait for the device before it and
one after it; its seconds are those of one call. The first call of an edit, which lays out its sites, is timed apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts.subject import Subject
from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import peak_during
from sparsedit.measure.rounds import Run, interleave
from sparsedit.measure.spread import ratios
from sparsedit.measure.warnings import doubts
from sparsedit.sparse import SitePyramid, ThinGraphs, sparse
from sparsedit.sparse.rows import tensors_of

CALL = "call"
WARM_UP = 2
DENSE, COMPILED = "dense eager", "dense compiled"
THIN, GRAPHS, COMPILED_GRAPHS = "thin eager", "thin graphs", "thin compiled"


@dataclass(frozen=True)
class Edit:
    """A mask of the picture, and how it becomes sites."""

    mask: Tensor
    sites: Callable[[Tensor], SitePyramid]


def dense_run(subject: Subject, call: Callable[..., Any]) -> Run:
    @torch.inference_mode()
    def run(clock: Clock) -> None:
        with clock.stage(CALL):
            subject.burst(call)

    return run


def thin_run(subject: Subject, sites: SitePyramid, graphs: ThinGraphs | None) -> Run:
    @torch.inference_mode()
    def run(clock: Clock) -> None:
        with sparse(subject.model, subject.cache, sites, graphs=graphs):
            subject.model(**subject.schedule[0])
            with clock.stage(CALL):
                subject.burst(subject.model)

    return run


def compiled_dense(model: nn.Module) -> Callable[..., Any]:
    """torch.compile with CUDA graphs; every call is a step of its own, so that it may reuse what the last returned."""
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def call(**inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode(False), torch.no_grad():
            return compiled(**inputs)

    return call


def measure(
    subject: Subject,
    dense: Mapping[str, Callable[..., Any]],
    thin: Mapping[str, tuple[Edit, ThinGraphs | None]],
    samples: int,
    device: torch.device,
) -> dict[str, Any]:
    """Interleaved rounds of every dense and every thin way, their ratios, and the memory each needs."""
    runs = {name: dense_run(subject, call) for name, call in dense.items()}
    runs |= {name: thin_run(subject, edit.sites(edit.mask), graphs) for name, (edit, graphs) in thin.items()}
    clocks = interleave(runs, device, samples=samples, warmup=WARM_UP)
    seconds = {name: [taken / subject.calls for taken in clock.samples[CALL]] for name, clock in clocks.items()}
    return {
        "calls_per_sample": subject.calls,
        "seconds": seconds,
        "median": {name: statistics.median(taken) for name, taken in seconds.items()},
        "speedup": {reference: _speedups(seconds, reference) for reference in dense},
        "extra_bytes": {name: _extra_bytes(partial(run, Clock(device)), device) for name, run in runs.items()},
        "weights_bytes": sum(weight.nbytes for weight in subject.model.parameters()),
        "cache_bytes_per_step": subject.cache.steps[0].nbytes,
        "doubts": doubts(seconds, warmup=WARM_UP),
    }


def _speedups(seconds: Mapping[str, list[float]], reference: str) -> dict[str, float]:
    """The median over rounds of how many times as long the reference took."""
    others = {name: taken for name, taken in seconds.items() if name != reference}
    return {name: statistics.median(ratios(seconds[reference], taken)) for name, taken in others.items()}


@torch.inference_mode()
def first_calls(
    subject: Subject, edit: Edit, graphs: ThinGraphs | None, samples: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds from a new mask to the end of its first thin call: `sites` on the processor, then the `call`."""
    clock = Clock(device)
    for _ in range(samples):
        with clock.stage("sites"):
            sites = edit.sites(edit.mask)
        with sparse(subject.model, subject.cache, sites, graphs=graphs), clock.stage(CALL):
            subject.model(**subject.schedule[0])
    return dict(clock.samples)


def _extra_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """GPU memory that a way takes beyond what is held anyway: weights, recordings, graphs. None on other devices."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_allocated(device)
    peak = peak_during(run, device)
    return None if peak is None else peak - held


@torch.inference_mode()
def difference(subject: Subject, sites: SitePyramid, graphs: ThinGraphs) -> dict[str, Any]:
    """How far a call by graph is from the thin call without: of another number of rows, kernels round otherwise."""
    with sparse(subject.model, subject.cache, sites):
        expected = tensors_of(subject.model(**subject.schedule[0]))
    with sparse(subject.model, subject.cache, sites, graphs=graphs):
        found = tensors_of(subject.model(**subject.schedule[0]))
    return {"relative_error": relative_error(found, expected)}


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float | None:
    """The largest norm of a difference over the norm of what was expected, of all tensors; None where not finite."""
    pairs = zip(found, expected, strict=True)
    errors = [float((new.double() - old.double()).norm() / old.double().norm()) for new, old in pairs]
    return max(errors) if all(map(math.isfinite, errors)) else None
