"""Whether the engine's invariants hold on this device, on a small model in float32 without TF32.

They are those of tests/test_invariants.py and tests/test_graphs.py, which a CPU proves; what a GPU adds is its kernels,
real captures, and waits of the processor, which torch's own debug mode sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.edits import drawn_edits, on_canvas, unet_sites
from benchmarks.gpu_parts.subject import Subject, build, unet_subject
from benchmarks.gpu_parts.timing import relative_error
from sparsedit.sparse import SitePyramid, ThinGraphs, sparse
from sparsedit.sparse.graphs import CudaCapture
from sparsedit.sparse.rows import map_tensors, tensors_of

LIMIT = 1e-4
SIZE = (256, 512)
SMALL = (64, 128)

Check = dict[str, Any]


def check_all(device: torch.device, small: bool) -> list[Check]:
    """Every invariant as a row: its name, whether it holds, and the figure behind that or the reason for no answer."""
    height, width = SMALL if small else SIZE
    subject = unet_subject(build("demo", "unet", torch.float32, device), height, width, device, torch.float32)
    mask = on_canvas(drawn_edits()["sdedit0"], height, width)
    with full_precision():
        subject.record()
        checks = [_full_mask(subject, height, width), _outside(subject, unet_sites(mask))]
        if device.type == "cuda":
            checks += _graphs(subject, mask)
            checks += [_no_waits(subject, unet_sites(mask), way) for way in (None, ThinGraphs())]
        else:
            why = f"CUDA graphs and waits are looked at on a CUDA GPU, and this is {device.type}"
            checks.append({"check": "graphs", "holds": None, "reason": why})
    return checks


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 inside: neither in matrix products nor in convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def thin(subject: Subject, sites: SitePyramid, graphs: ThinGraphs | None = None) -> list[Tensor]:
    """What both steps of the edit return."""
    with sparse(subject.model, subject.cache, sites, graphs=graphs):
        return [tensors_of(subject.model(**inputs))[0] for inputs in subject.edited]


def _full_mask(subject: Subject, height: int, width: int) -> Check:
    """The original recorded from the edit's own inputs, all sites active: thin is dense."""
    own = Subject(subject.model, subject.edited, subject.edited, subject.calls)
    dense = [tensors_of(own.model(**inputs))[0] for inputs in own.edited]
    own.record()
    found = thin(own, SitePyramid.from_mask(torch.ones(height, width, dtype=torch.bool)))
    return _within("all sites active: thin is dense", relative_error(found, dense))


def _outside(subject: Subject, sites: SitePyramid, graphs: ThinGraphs | None = None) -> Check:
    same = True
    for step, found in zip(subject.cache.steps, thin(subject, sites, graphs), strict=False):
        outside = sites.level((found.shape[2], found.shape[3])).position < 0
        kept = outside.to(found.device)
        same &= torch.equal(found.flatten(2)[..., kept], step.outputs[0].flatten(2)[..., kept])
    return {"check": f"sites outside keep their bits{'' if graphs is None else ', by a graph too'}", "holds": same}


class WatchedCapture(CudaCapture):
    """A capture that compares its first replay, bit for bit, with the captured function run eagerly."""

    def __init__(self) -> None:
        super().__init__()
        self.same: list[bool] = []

    def __call__(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
        eager = tensors_of(map_tensors(function(), Tensor.clone))
        replay, results = super().__call__(function, device)
        replay()
        self.same.append(all(torch.equal(*pair) for pair in zip(tensors_of(results), eager, strict=True)))
        return replay, results


def _graphs(subject: Subject, mask: Tensor) -> list[Check]:
    """Steps, prompts, masks and recordings through one graph, each against the thin call without graphs."""
    capture = WatchedCapture()
    graphs, sites = ThinGraphs(capture), unet_sites(mask)
    moved = unet_sites(mask.roll((32, -32), (0, 1)))  # by whole cells of the coarsest level: as many sites on each
    prompted = [
        inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].flip(1)} for inputs in subject.edited
    ]
    other = Subject(subject.model, subject.originals, prompted, subject.calls, subject.cache)
    checks = [
        _within("a graph's steps are the thin call's", _apart(subject, sites, graphs)),
        _within("another mask through the same graph", _apart(subject, moved, graphs)),
        _within("another prompt through the same graph", _apart(other, sites, graphs)),
        _within("the first mask again", _apart(subject, sites, graphs)),
        _outside(subject, sites, graphs),
        {"check": "a replay has the bits of the captured pass", "holds": all(capture.same)},
        {"check": "one capture serves all of these", "holds": len(capture.same) == 1, "captures": len(capture.same)},
    ]
    twice = [thin(subject, sites, graphs) for _ in range(2)]
    checks.append({"check": "twice gives the same bits", "holds": all(map(torch.equal, *twice))})
    return checks


def _apart(subject: Subject, sites: SitePyramid, graphs: ThinGraphs) -> float | None:
    return relative_error(thin(subject, sites, graphs), thin(subject, sites))


def _no_waits(subject: Subject, sites: SitePyramid, graphs: ThinGraphs | None) -> Check:
    """Nothing in a thin call after an edit's first makes the processor wait (torch.cuda.set_sync_debug_mode)."""
    check: Check = {"check": f"no wait in a thin call {'without' if graphs is None else 'with'} graphs", "holds": True}
    with sparse(subject.model, subject.cache, sites, graphs=graphs):
        subject.model(**subject.schedule[0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            subject.burst(subject.model)
        except RuntimeError as error:
            check |= {"holds": False, "reason": str(error).splitlines()[0]}
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return check


def _within(name: str, error: float | None) -> Check:
    holds = error is not None and error <= LIMIT
    return {"check": name, "holds": holds, "relative_error": error, "limit": LIMIT}
