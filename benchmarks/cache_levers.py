"""What the levers on a recording's size cost in fidelity, and what they save.

    python -m benchmarks.cache_levers [--scenes N] [--no-fidelity]

Fidelity: stroke edits of the demo suite with their prompt unchanged, 30 steps run, PSNR inside the edit against the
dense edit of the same run: on a recording as it is, on one of 17 steps, and on both with keys and values in int8. Halo
rows alone give the same bits, which a test holds. Size: SDXL at 1024x1024, bf16, with guidance, counted on the meta
device. Takes no times. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import mean
from typing import Any

import torch

from sparsedit.cache.compaction import Compaction
from sparsedit.cache.models import recordable
from sparsedit.cache.size import SizeEstimate
from sparsedit.editor import SparseEditor
from sparsedit.metrics.fidelity import fidelity
from sparsedit.models.loading import load_pipeline
from sparsedit.models.presets import PRESETS
from sparsedit.models.random import random_pipeline
from sparsedit.plan import Edit, Request, as_tensor, stage_sites
from sparsedit.results import Result
from sparsedit.schedule import Schedule
from sparsedit.settings import POLICIES
from sparsedit.sparse.int8 import in_int8
from sparsedit.stages import Stages
from sparsedit.suites.demo import demo_items

SIDE = 1024
STEPS, FEWER = 30, 17
SCHEDULE = 43
"""Steps of which 30 are run at strength 0.7."""
RECORDED = (30, 21, 17, 15)
EDIT_RATIO = 0.05
LARGEST = 0.12
"""Share of edited pixels up to which scenes are taken."""


def fidelity_of(scenes: int) -> list[dict[str, Any]]:
    """One row for each of the first scenes whose edit runs thinly: dB inside it by the steps recorded and the form."""
    editor = SparseEditor(load_pipeline("demo", dtype="float32"), policy=POLICIES["close"])
    rows: list[dict[str, Any]] = []
    for item in demo_items(10 * scenes):
        if len(rows) == scenes:
            break
        pictures = item.pictures()
        assert pictures.painted is not None  # the suite draws strokes for every edit
        edit = Edit(as_tensor(pictures.painted))
        options: dict[str, Any] = {"prompt": item.source_prompt, "steps": SCHEDULE, "strength": 0.7, "guidance": 4.0}
        request = editor.request(pictures.original, **options)
        dense = editor.dense(request, edit)
        if dense.plan.edit_ratio > LARGEST:
            continue
        inside: dict[str, float | None] = {}
        for count in (STEPS, FEWER):
            recorded = editor.record_request(request, count)
            native = editor.apply(edit)
            for cache in recorded.caches.values():
                cache.steps = [in_int8(step) for step in cache.steps]
            inside[f"native, {count}"] = _inside(native, dense)
            inside[f"int8, {count}"] = _inside(editor.apply(edit), dense)
        if native.way != "warm":
            continue
        row = {"scene": item.id, "edit_ratio": dense.plan.edit_ratio, "inside": inside}
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def sizes() -> list[dict[str, Any]]:
    """Bytes of an SDXL recording for every form and number of recorded steps."""
    stages = Stages(random_pipeline(PRESETS["sdxl"], torch.bfloat16, device="meta"))
    request = Request(torch.zeros(1, 3, SIDE, SIDE), "", "", "sdedit", Schedule(STEPS, 1.0, 5.0), 0)
    models = recordable(stages, None, request, None)
    estimate = SizeEstimate(models, SIDE, SIDE, moments=False)
    hole = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    side = int(SIDE * EDIT_RATIO**0.5)
    hole[200 : 200 + side, 300 : 300 + side] = True
    sites = {stage: [pyramid] for stage, pyramid in stage_sites(hole, POLICIES["tight"]).items()}
    forms = {"native": Compaction(), "int8": Compaction(True), "halo": Compaction(sites=sites)}
    forms["int8 + halo"] = Compaction(True, sites)
    rows = []
    for name, form in forms.items():
        size = estimate.size(form)
        once = size.total - size.stages["unet"].step * STEPS
        row: dict[str, Any] = {"form": name, "step": size.stages["unet"].step, "once": once}
        rows.append(row | {str(count): row["step"] * count + once for count in RECORDED})
    return rows


def _inside(result: Result, reference: Result) -> float | None:
    scores = fidelity(result.image, reference.image, {"inside": result.plan.changed.numpy()})
    psnr: float | None = scores["inside"]["psnr"]
    return psnr


def main() -> None:
    parser = argparse.ArgumentParser(description="Fidelity and size of a recording's levers.")
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--no-fidelity", action="store_true", help="count sizes alone")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"sizes": sizes()}
    for row in document["sizes"]:
        totals = ", ".join(f"{count} steps {row[str(count)] / 1e9:.2f} GB" for count in RECORDED)
        print(f"{row['form']}: {row['step'] / 1e6:.0f} MB a step, {row['once'] / 1e6:.0f} MB once; {totals}")
    if not arguments.no_fidelity:
        rows = document["fidelity"] = fidelity_of(arguments.scenes)
        for form in rows[0]["inside"] if rows else ():
            psnrs = [row["inside"][form] for row in rows]
            cost = [row["inside"][f"native, {STEPS}"] - psnr for row, psnr in zip(rows, psnrs, strict=True)]
            print(f"{form} steps: {mean(psnrs):.2f} dB, {mean(cost):.3f} less on average, {max(cost):.3f} at most")
    print(json.dumps(document, allow_nan=False))


if __name__ == "__main__":
    main()
