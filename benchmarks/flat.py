"""What should stay flat: a thin UNet call against the number of variants and the size of the picture, an edit against
the number of steps.

    python -m benchmarks.flat [--model sdxl] [--samples N] [--only variants,pixels,steps] [--output DIR] [--plot-only]

* variants: k edits alongside, each of 1.72 % of 512x1024, in one thin call; seconds of one of them.
* pixels: an edit of 96x96 px in pictures of 512 to 4096 px; what the call remembers is made up, for no dense call of
  the largest fits everywhere. The multiply-adds may grow through attention's keys alone, and are counted beside.
* steps: a whole warm edit of the demo model at 5 to 40 steps; seconds of one step.

Random weights at full size but for the steps. All points of a curve take turns, round after round. Writes flat.json
(raw samples, a curve measured again replaces the old one) and flat.png into DIR, by default benchmarks/results/MACHINE.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.flat_plot import plot
from benchmarks.machine import machine_slug
from sparsedit.editor import SparseEditor
from sparsedit.environment import environment
from sparsedit.files import write_atomic
from sparsedit.measure.clock import Clock
from sparsedit.measure.rounds import Run, interleave
from sparsedit.measure.twin import Twin
from sparsedit.measure.warnings import busy, doubts, load_average
from sparsedit.models.loading import empty_pipeline, load_pipeline
from sparsedit.models.placement import resolve_device, resolve_dtype
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_model
from sparsedit.plan import stage_sites
from sparsedit.profiling.calls import CALL, StageCall
from sparsedit.profiling.counts import Counted, count_thin
from sparsedit.profiling.synthetic import synthetic_edit, synthetic_picture
from sparsedit.settings import POLICIES
from sparsedit.sparse import ActivationCache, PackedWeights, SitePyramid, alongside, dilate
from sparsedit.sparse.packing import can_pack
from sparsedit.stages import Stages

VARIANTS = (1, 2, 4, 8)
VARIANTS_SIZE = (512, 1024)
SIDES = (512, 1024, 2048, 4096)
EDIT_SIDE = 96
STEPS = (5, 10, 20, 40)
CURVES = ("variants", "pixels", "steps")


@dataclasses.dataclass(frozen=True)
class Point:
    """One x of a curve: its run, what it counts, and how many edits or steps its seconds are of."""

    x: int
    run: Run
    counted: Counted | None = None
    shared_by: int = 1


class Subject:
    """The full-size UNet with random weights."""

    def __init__(self, name: str) -> None:
        self.device = resolve_device("auto")
        self.dtype = resolve_dtype("auto", self.device, get_preset(name))
        self.stages = Stages(empty_pipeline(name))
        empty: Any = self.stages.unet
        self.unet = random_model(type(empty), dict(empty.config), self.dtype, device=self.device)
        packs = can_pack() and self.dtype == torch.bfloat16 and self.device.type == "cpu"
        self.packed = PackedWeights() if packs else None

    def call(self, twin: Twin, batch: int) -> StageCall:
        _, args, kwargs = twin.calls["unet"]
        widened = [
            each.new_empty(batch, *each.shape[1:]) if isinstance(each, Tensor) and each.ndim else each for each in args
        ]
        call = StageCall(self.unet, tuple(widened), {}, self.packed)
        conditions = StageCall(self.unet, (), kwargs).kwargs
        call.kwargs = {name: _rows(value, batch) for name, value in conditions.items()}
        return call


def variants(subject: Subject) -> Iterator[Point]:
    """k edits alongside one original; what counts is their common thin call."""
    height, width = VARIANTS_SIZE
    twin = Twin(subject.stages, height, width, 2)
    for count in VARIANTS:
        sites = [sites_at(height, width, number / max(VARIANTS)) for number in range(count)]
        yield Point(count, _alongside(subject.call(twin, 2 * (1 + count)), sites), shared_by=count)


def pixels(subject: Subject) -> Iterator[Point]:
    """One edit of a fixed area in ever larger pictures."""
    for side in SIDES:
        twin = Twin(subject.stages, side, side, 1)
        sites = sites_at(side, side, 0.5)
        counted = count_thin(twin, "unet", sites, subject.dtype)
        yield Point(side, _thin(subject, twin, sites), counted)


def steps(_: Subject | None) -> Iterator[Point]:
    """A warm edit of the demo model, recorded at each number of steps."""
    pipe = load_pipeline("demo")
    original = synthetic_picture(256, 256)
    edited = synthetic_edit(original, 0.02, "contiguous").edited
    for count in STEPS:
        editor = SparseEditor(pipe)
        editor.record(original, prompt="a green meadow by day", steps=count, strength=1.0)

        def run(clock: Clock, editor: SparseEditor = editor) -> None:
            with clock.stage(CALL):
                editor.edit(edited)

        yield Point(count, run, shared_by=count)


def sites_at(height: int, width: int, along: float) -> SitePyramid:
    """The UNet's sites of a square edit whose place is a share of the way through the picture."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    top, left = (round(along * (length - EDIT_SIDE)) for length in (height, width))
    mask[top : top + EDIT_SIDE, left : left + EDIT_SIDE] = True
    policy = POLICIES["tight"]
    return stage_sites(dilate(mask, policy.grow), policy)["unet"]


def _alongside(call: StageCall, sites: list[SitePyramid]) -> Run:
    def run(clock: Clock) -> None:
        @contextmanager
        def observe(rows: Sequence[int]) -> Iterator[None]:
            if 0 in rows:
                yield
            else:
                with clock.stage(CALL):
                    yield

        with torch.inference_mode(), alongside(call.model, sites, observe, packed=call.packed):
            call()

    return run


def _thin(subject: Subject, twin: Twin, sites: SitePyramid) -> Run:
    """A thin call on a made-up memory, which is there only while the call runs: the largest fill a machine."""

    def run(clock: Clock) -> None:
        call = subject.call(twin, 1)
        call.cache = made_up(twin.recorded("unet"), subject.dtype, subject.device)
        call.thin(sites)(clock)

    return run


def made_up(cache: ActivationCache, dtype: torch.dtype, device: torch.device) -> ActivationCache:
    """A cache of two steps with the shapes of a twin's first one; both are the same tensors."""

    def real(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=dtype, device=device).normal_()

    made = ActivationCache()
    step = dataclasses.replace(cache.step(0).mapped(real), dtype=dtype, device=device)
    made.steps = [dataclasses.replace(step, timestep=torch.tensor(1))] * 2
    return made


def _rows(value: Any, batch: int) -> Any:
    """A condition for `batch` pictures, the same for all."""
    if isinstance(value, dict):
        return {name: _rows(each, batch) for name, each in value.items()}
    return value[:1].expand(batch, *value.shape[1:]).contiguous()


def measure(name: str, points: Callable[[], Iterator[Point]], samples: int, load: float | None) -> dict[str, Any]:
    """One curve with its raw samples; seconds are those of one edit or step."""
    taken = list(points())
    device = resolve_device("auto")
    clocks = interleave(
        {str(point.x): point.run for point in taken},
        device,
        samples=samples,
        on_round=lambda number, total: say(f"{name}: round {number} of {total}"),
    )
    seconds = {name: clock.samples[CALL] for name, clock in clocks.items()}
    entries = [
        {
            "x": point.x,
            "seconds": [each / point.shared_by for each in seconds[str(point.x)]],
            "counted": point.counted.entry() if point.counted else None,
        }
        for point in taken
    ]
    warnings = [*busy(load, os.cpu_count()), *doubts({f"the point {x}": each for x, each in seconds.items()}, warmup=1)]
    return {"points": entries, "warnings": warnings, "environment": environment()}


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    load = load_average()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sdxl", help="the preset whose UNet is called")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--only", default=",".join(CURVES), help="curves, with commas between them")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.add_argument("--plot-only", action="store_true", help="draw again from DIR/flat.json")
    asked = parser.parse_args()
    folder = asked.output or Path(__file__).parent / "results" / machine_slug(
        environment(), str(resolve_device("auto"))
    )
    file = folder / "flat.json"
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"schema": 1, "curves": {}}
    wanted = [] if asked.plot_only else asked.only.split(",")
    subject = Subject(asked.model) if {"variants", "pixels"} & set(wanted) else None
    made = {"variants": variants, "pixels": pixels, "steps": steps}
    for name in wanted:
        model = "demo" if name == "steps" else asked.model
        points: Any = made[name]
        document["curves"][name] = {"model": model} | measure(name, lambda: points(subject), asked.samples, load)  # noqa: B023
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    plot(document, folder / "flat.png")


if __name__ == "__main__":
    main()
