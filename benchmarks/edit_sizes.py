"""What one call costs against the size of the edit: 0.5 to 100 % of a picture, in one rectangle and in scattered dabs.

    python -m benchmarks.edit_sizes [--model NAME]... [--ratios R,R,...] [--samples N] [--output DIR] [--plot-only]

Random weights at full size. Every round runs the dense call and then each thin one (the second call in its context), so
ratios compare one moment of the machine; thin calls that cost more than a quarter of the dense one's multiply-adds run
in a third of the rounds. Writes edit-sizes.json (raw samples, one curve for each model and stage; a curve measured
again replaces the old one), edit-sizes.md and edit-sizes.png into DIR, by default benchmarks/results/MACHINE. The last
line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.edit_sizes_table import markdown
from benchmarks.machine import machine_slug
from sparsedit.environment import environment
from sparsedit.files import write_atomic
from sparsedit.measure.ceilings import ceilings
from sparsedit.measure.clock import Clock
from sparsedit.measure.rounds import interleave
from sparsedit.measure.twin import Twin
from sparsedit.measure.warnings import busy, doubts, load_average
from sparsedit.models.loading import empty_pipeline
from sparsedit.models.placement import resolve_device, resolve_dtype
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_model
from sparsedit.plan import stage_sites
from sparsedit.profiling.calls import CALL, StageCall
from sparsedit.profiling.counts import Counted, count_dense, count_thin
from sparsedit.profiling.models import stage_model
from sparsedit.profiling.synthetic import PATTERNS, synthetic_mask
from sparsedit.published import load_published
from sparsedit.settings import POLICIES, MaskPolicy
from sparsedit.sparse import PackedWeights, SitePyramid, dilate
from sparsedit.sparse.packing import can_pack
from sparsedit.stages import Stages

RATIOS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SIZES = {"sdxl": (1024, 512)}
"""Width and height where they are not the model's own: those of the published tables."""
CHEAP = 0.25


@dataclasses.dataclass(frozen=True)
class Point:
    """One edit size: what is edited, the sites that follow, and what its call counts."""

    pattern: str
    edit_ratio: float
    share: float
    sites: SitePyramid
    counted: Counted

    @property
    def name(self) -> str:
        return f"{self.pattern} {self.edit_ratio:.1%}"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a curve is measured."""

    stage: str
    size: tuple[int, int] | None
    batch: int
    ratios: tuple[float, ...]
    samples: int
    policy: str
    pack: bool
    device: str
    dtype: str


def points(twin: Twin, options: Options, size: tuple[int, int], dtype: torch.dtype) -> list[Point]:
    """The edits of a curve, counted; of those that reach every site only the first."""
    found: list[Point] = []
    policy: MaskPolicy = POLICIES[options.policy]
    width, height = size
    _, args, _ = twin.calls[options.stage]
    for pattern in PATTERNS:
        for ratio in options.ratios:
            mask = synthetic_mask(height, width, ratio, pattern)
            sites = stage_sites(dilate(mask, policy.grow), policy)[options.stage]
            share = sites.fraction((args[0].shape[2], args[0].shape[3]))
            if share == 1 and any(point.share == 1 for point in found):
                say(f"  {pattern} {ratio:.1%} reaches every site, as an edit before it did: left out")
                continue
            counted = count_thin(twin, options.stage, sites, dtype)
            found.append(Point(pattern, mask.float().mean().item(), share, sites, counted))
    return found


def curve(name: str, options: Options, load: float | None) -> dict[str, Any]:
    """Measure one model's stage over all edit sizes."""
    preset = get_preset(name)
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device, preset)
    size = options.size or SIZES.get(name, (preset.native_size, preset.native_size))
    say(f"{name}, {options.stage}: {size[0]}x{size[1]}, batch {options.batch}, {dtype}")
    stages = Stages(empty_pipeline(name, options.dtype, options.device))
    twin = Twin(stages, size[1], size[0], options.batch)
    edits = points(twin, options, size, dtype)
    best, said = ceilings(device, dtype, load=load)
    empty: Any = stage_model(stages, options.stage)
    call = stage_call(empty, stages, twin, options, dtype, device)
    call.dense(Clock(device))
    record_s = call.record()
    cheap = CHEAP * twin.dense(options.stage).macs
    clocks = sample(call, edits, {point.name: point.counted.macs < cheap for point in edits}, options.samples)
    samples = {name: clock.samples[CALL] for name, clock in clocks.items()}
    steady = {f"the {name} call": taken for name, taken in samples.items() if len(taken) == options.samples}
    dense = count_dense(twin, options.stage, dtype).entry() | {"seconds": samples.pop("dense")}
    return {
        "model": name,
        "stage": options.stage,
        "size": list(size),
        "batch": options.batch,
        "dtype": best.dtype,
        "device": str(device),
        "policy": options.policy,
        "packed": call.packed is not None,
        "record_s": record_s,
        "cache_bytes": call.cache.step(0).nbytes,
        "dense": dense,
        "points": [described(point, samples[point.name]) for point in edits],
        "ceilings": dataclasses.asdict(best),
        "load": load,
        "warnings": [*busy(load, os.cpu_count()), *said, *doubts(steady, warmup=1)],
        "environment": environment(),
    }


def stage_call(
    empty: Any, stages: Stages, twin: Twin, options: Options, dtype: torch.dtype, device: torch.device
) -> StageCall:
    """The stage's model with random weights, alone: a whole pipeline would not fit beside it everywhere."""
    whole: Any = stages.vae if options.stage in ("encoder", "decoder") else empty
    model: Any = random_model(type(whole), dict(whole.config), dtype, device=device)
    if whole is not empty:
        model = getattr(model, options.stage)
    packs = options.pack and can_pack() and dtype == torch.bfloat16 and device.type == "cpu"
    _, args, kwargs = twin.calls[options.stage]
    return StageCall(model, args, kwargs, PackedWeights() if packs else None)


def sample(call: StageCall, edits: Sequence[Point], cheap: Mapping[str, bool], samples: int) -> dict[str, Clock]:
    """Rounds of the dense call and every thin one; those that are not `cheap` take part in the first rounds alone."""
    runs = {"dense": call.dense} | {point.name: call.thin(point.sites) for point in edits}
    few = max(1, samples // 3)
    wanted = {"dense": samples} | {name: samples if is_cheap else few for name, is_cheap in cheap.items()}

    def on_round(number: int, total: int) -> None:
        say(f"  round {number} of {total}")

    # The dense call is warm, and every thin one is preceded by another in its context.
    return interleave(runs, call.device, samples=wanted, warmup=0, on_round=on_round)


def described(point: Point, seconds: list[float]) -> dict[str, Any]:
    kept = {"pattern": point.pattern, "edit_ratio": point.edit_ratio, "sites": point.share}
    return kept | point.counted.entry() | {"seconds": seconds}


def published_points() -> list[dict[str, Any]]:
    """What others publish of the same models: shares of their own dense figures, which alone can stand beside ours."""
    rows = load_published()
    dense = {(row.system, row.model, row.stage): row for row in rows if row.case == "dense"}
    found = []
    for row in rows:
        whole = dense.get((row.system, row.model, row.stage))
        if row.edit_ratio and row.preset and whole and row.gmacs and whole.gmacs:
            kept = row.model_dump(include={"system", "source", "hardware", "preset", "stage", "case", "edit_ratio"})
            time_share = row.ms / whole.ms if row.ms and whole.ms else None
            found.append(kept | {"macs_share": row.gmacs / whole.gmacs, "time_share": time_share})
    return found


def merged(file: Path, curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The document with these curves in the place of those of the same model and stage."""
    old = json.loads(file.read_text())["curves"] if file.exists() else []
    new = {(each["model"], each["stage"]): each for each in (*old, *curves)}
    return {"schema": 1, "curves": list(new.values()), "published": published_points()}


def write(folder: Path, document: dict[str, Any]) -> None:
    """Tables and the plot from the document alone."""
    from benchmarks.edit_sizes_plot import plot

    write_atomic(folder / "edit-sizes.md", markdown(document).encode())
    try:
        plot(document, folder / "edit-sizes.png")
    except ImportError:
        say("no plot: matplotlib is missing (pip install '.[plot]'); --plot-only draws it later")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="a preset; may be repeated (default: demo and sdxl)")
    parser.add_argument("--stage", default="unet", choices=("unet", "encoder", "decoder"))
    parser.add_argument("--size", type=size_of, metavar="WxH")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--ratios", type=ratio_list, default=RATIOS, metavar="R,R,...")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--policy", default="tight", choices=tuple(POLICIES))
    parser.add_argument("--pack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.add_argument("--plot-only", action="store_true", help="make tables and plot again from DIR/edit-sizes.json")
    return parser.parse_args()


def size_of(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 1024x512, not {text!r}")
    return int(match[1]), int(match[2])


def ratio_list(text: str) -> tuple[float, ...]:
    ratios = tuple(float(part) for part in text.split(","))
    if not all(0 < ratio <= 1 for ratio in ratios):
        raise argparse.ArgumentTypeError(f"must be shares of a picture, more than 0 and at most 1, not {text!r}")
    return ratios


def main() -> None:
    load = load_average()
    asked = parse()
    machine = machine_slug(environment(), str(resolve_device(asked.device)))
    folder = asked.output or Path(__file__).parent / "results" / machine
    file = folder / "edit-sizes.json"
    options = Options(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Options)})
    curves = [] if asked.plot_only else [curve(name, options, load) for name in asked.model or ("demo", "sdxl")]
    folder.mkdir(parents=True, exist_ok=True)
    document = merged(file, curves)
    write_atomic(file, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    write(folder, document)
    print(json.dumps(document, allow_nan=False))


if __name__ == "__main__":
    main()
