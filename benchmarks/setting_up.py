"""How long an edit takes to set up: its difference, mask, sites and every plan that encoder, UNet and decoder ask for.

    python -m benchmarks.setting_up [--model NAME] [--size WxH] [--edit WxH] [--samples N] [--output DIR]

No weights: which maps and windows a model asks for is seen on the meta device, and laid out anew in every sample.
Writes setting-up.json (raw samples in seconds) into DIR, by default benchmarks/results/MACHINE. The last line on stdout
is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.edit_sizes import say, size_of
from benchmarks.machine import machine_slug
from sparsedit.environment import environment
from sparsedit.files import write_atomic
from sparsedit.measure.clock import Clock
from sparsedit.measure.rounds import interleave
from sparsedit.measure.spread import Spread
from sparsedit.measure.twin import Twin
from sparsedit.measure.warnings import busy, doubts, load_average
from sparsedit.models.loading import empty_pipeline
from sparsedit.models.placement import resolve_device
from sparsedit.plan import Edit, Plan, plan_edit
from sparsedit.profiling.synthetic import synthetic_picture
from sparsedit.requests import make_request
from sparsedit.settings import POLICIES
from sparsedit.sparse import SitePyramid, sparse
from sparsedit.stages import Stages

STAGES = ("encoder", "unet", "decoder")
WHOLE, PLANNING = "whole", "difference, mask and picture"


def asked_for(twin: Twin, plan: Plan) -> dict[str, SitePyramid]:
    """The sites of every stage after one thin call of its model, which say what it asks them for."""
    sites = {}
    for stage in STAGES:
        fresh = plan.stage_sites[stage]
        sites[stage] = SitePyramid(fresh.mask, fresh.level_dilation)
        model, args, kwargs = twin.calls[stage]
        with sparse(model, twin.recorded(stage), sites[stage]):
            model(*args, **kwargs)
    return sites


def measure(model: str, size: tuple[int, int], edit: tuple[int, int], samples: int) -> dict[str, Any]:
    """Set one edit up again and again."""
    load = load_average()
    width, height = size
    stages = Stages(empty_pipeline(model))
    original = synthetic_picture(height, width)
    edited = original.clone()
    top, left = (height - edit[1]) // 2, (width - edit[0]) // 2
    edited[..., top : top + edit[1], left : left + edit[0]].neg_()
    settings: dict[str, Any] = {"prompt": "", "steps": 4, "strength": 1.0, "guidance": 5.0}
    request = make_request(stages, None, original, **settings)
    known = asked_for(Twin(stages, height, width, 2), plan_edit(request, Edit(edited), POLICIES["tight"]))

    def run(clock: Clock) -> None:
        with clock.stage(WHOLE):
            with clock.stage(PLANNING):
                plan = plan_edit(request, Edit(edited), POLICIES["tight"])
            for stage in STAGES:
                with clock.stage(stage):
                    lay_out(plan.stage_sites[stage], known[stage])

    taken = interleave({"run": run}, torch.device("cpu"), samples=samples, warmup=3)["run"].samples
    parts = {name: seconds for name, seconds in taken.items() if name != WHOLE}
    return {
        "model": model,
        "size": list(size),
        "edit": list(edit),
        "seconds": parts | {WHOLE: [sum(together) for together in zip(*taken.values(), strict=True)]},
        "load": load,
        "warnings": [*busy(load, os.cpu_count()), *doubts({"setting up": taken[WHOLE]}, warmup=1)],
        "environment": environment(),
    }


def lay_out(sites: SitePyramid, like: SitePyramid) -> None:
    """Ask for every level and plan that another pyramid was asked for."""
    for size in like.maps:
        sites.level(size)
    for window in like.windows:
        sites.neighbours(window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sdxl", help="a preset")
    parser.add_argument("--size", type=size_of, default=(1024, 1024), metavar="WxH")
    parser.add_argument("--edit", type=size_of, default=(134, 134), metavar="WxH", help="default: 1.7 % of the picture")
    parser.add_argument("--samples", type=int, default=25)
    parser.add_argument("--output", type=Path, metavar="DIR")
    asked = parser.parse_args()
    document = measure(asked.model, asked.size, asked.edit, asked.samples)
    machine = machine_slug(environment(), str(resolve_device("auto")))
    folder = asked.output or Path(__file__).parent / "results" / machine
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "setting-up.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    for name, seconds in document["seconds"].items():
        spread = Spread.of(seconds)
        assert spread is not None
        say(f"{name}: {spread.median * 1e3:.1f} ms ({spread.low * 1e3:.1f} to {spread.high * 1e3:.1f})")
    print(json.dumps(document, allow_nan=False))


if __name__ == "__main__":
    main()
