"""How close a few dense steps come to all of them: cold edits, recordings of some steps, and plain step skipping.

    python -m benchmarks.coarse                 adds scenes to the raw rows and writes the table again

Rows measured with other weights of the demo model are dropped first.

Every edit of the demo suite is made densely once, and then with K dense steps in three ways: *skip*, K dense steps of
the edit and nothing else, the control; *cold*, the same and then all N steps at the edited sites; *record*, K steps of
the original and then all N of the edit. PSNR inside the edited pixels against the dense edit. No times are taken here.
The means are the table by which `--fidelity` chooses K (`sparsedit/calibration.json`); `--policy` measures other masks,
for comparison.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.weights import weights_of
from sparsedit.calibration import TABLE
from sparsedit.editor import SparseEditor
from sparsedit.files import write_atomic
from sparsedit.metrics.fidelity import fidelity
from sparsedit.models.loading import load_pipeline
from sparsedit.plan import Edit, Request, as_tensor
from sparsedit.results import Result
from sparsedit.settings import POLICIES, effective_steps
from sparsedit.skipping import spread
from sparsedit.suites.demo import DemoItem, demo_item

RESULTS = Path(__file__).parent / "results"
CALIBRATED = "close"
"""The policy that `--fidelity` is answered for: the demo presets'."""
STRENGTH, GUIDANCE = 0.7, 4.0
SMALLEST, LARGEST = 0.005, 0.12
"""Shares of edited pixels of the scenes taken: the small edits that thin passes are for."""

Row = dict[str, Any]


def scenes(count: int) -> Iterator[DemoItem]:
    """The first `count` edits of the suite that are of a fitting size."""
    index = 0
    while count:
        item = demo_item(index)
        index += 1
        if SMALLEST < item.pictures().mask.mean() < LARGEST:
            count -= 1
            yield item


def raw_of(policy: str) -> Path:
    """The file of the raw rows measured with masks of this policy."""
    return RESULTS / ("coarse.jsonl" if policy == CALIBRATED else f"coarse-{policy}.jsonl")


def still_true(raw: Path, weights: str) -> list[Row]:
    """The rows of a file that were measured with these `weights` of a UNet; those of others are taken out of it."""
    rows: list[Row] = [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []
    kept = [row for row in rows if row.get("weights") == weights]
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} rows were measured with other weights and are dropped", file=sys.stderr)
        write_atomic(raw, "".join(json.dumps(row) + "\n" for row in kept).encode())
    return kept


def missing(rows: list[Row], scene: str, steps: int, counts: list[int]) -> list[int]:
    """The numbers of dense steps, fewer than all, that rows do not have of a scene."""
    done = {row["dense_steps"] for row in rows if (row["scene"], row["steps"]) == (scene, steps)}
    return [count for count in counts if count not in done and count < steps]


def measure(editor: SparseEditor, item: DemoItem, steps: int, counts: list[int]) -> Iterator[Row]:
    """One row per number of dense steps and way."""
    weights = weights_of(editor.stages)
    pictures = item.pictures()
    assert pictures.painted is not None  # the suite draws strokes for every edit
    prompt = item.target_prompt
    request = editor.request(pictures.original, prompt=prompt, steps=steps, strength=STRENGTH, guidance=GUIDANCE)
    edit = Edit(as_tensor(pictures.painted), prompt=prompt)
    dense = editor.dense(request, edit)
    calls = request.schedule.calls
    for count in counts:
        for way, result in ways(editor, request, edit, count):
            regions = {"inside": dense.plan.changed.numpy()}
            scores = fidelity(result.image, dense.image, regions)
            yield {
                "scene": item.id,
                "weights": weights,
                "edit_type": item.edit_type_name,
                "steps": calls,
                "dense_steps": count,
                "way": way,
                "inside_psnr": scores["inside"]["psnr"],
                "whole_psnr": scores["whole"]["psnr"],
            }


def ways(editor: SparseEditor, request: Request, edit: Edit, count: int) -> Iterator[tuple[str, Result]]:
    """The edit with `count` dense steps, in each of the ways."""
    kept = spread(count, request.schedule.calls)
    yield "skip", editor.dense(replace(request, schedule=replace(request.schedule, kept=kept)), edit)
    yield "cold", editor.cold(request, edit, count)[1]
    editor.record_request(request, count)
    yield "record", editor.edit(edit.edited, prompt=edit.prompt)


def table(rows: list[Row]) -> list[Row]:
    """Mean PSNR of each way by steps and dense steps, over the scenes that have all of them."""
    groups: dict[tuple[int, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["steps"], row["dense_steps"]][row["way"]].append(row)
    return [
        {"steps": steps, "dense_steps": count, "scenes": len(by_way["cold"])}
        | {
            f"{way}_{region}": round(statistics.fmean(row[f"{region}_psnr"] for row in by_way[way]), 1)
            for way in ("skip", "cold", "record")
            for region in ("inside", "whole")
        }
        for (steps, count), by_way in sorted(groups.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coarse", description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50], help="of the whole schedule")
    parser.add_argument("--dense", type=int, nargs="+", default=[3, 4, 5, 7, 10], help="dense steps")
    parser.add_argument("--policy", choices=POLICIES, default=CALIBRATED, help="default: %(default)s")
    arguments = parser.parse_args()
    editor = SparseEditor(load_pipeline("demo"), policy=POLICIES[arguments.policy], break_even=1.0)
    raw = raw_of(arguments.policy)
    rows = still_true(raw, weights_of(editor.stages))
    for item in scenes(arguments.scenes):
        for steps in arguments.steps:
            if not (counts := missing(rows, item.id, effective_steps(steps, STRENGTH), arguments.dense)):
                continue
            new = list(measure(editor, item, steps, counts))
            rows += new
            with raw.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in new)
            if arguments.policy == CALIBRATED:
                TABLE.write_text(json.dumps({"model": "demo", "rows": table(rows)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
