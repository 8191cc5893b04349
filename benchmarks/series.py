"""What consecutive edits lose: a series on one recording that its edits renew, against recordings made anew.

    python -m benchmarks.series                 adds scenes to the raw rows and draws the picture again

A scene of the demo suite's renderer is changed object by object, as a user would paint it. At every position three
edits are made of the same strokes: *dense*, of all strokes so far, as a stock pipeline makes it; *fresh*, thin on a
dense recording of the strokes before; *series*, thin on what the edit before left in the first recording. PSNR
against the dense edit, inside the edited pixels, over everything edited so far and of the whole picture; drift is what
*series* has less than *fresh*. A series for each of what group norms may do; masks as a series takes them by default.
No times are taken here.

With `--task inpaint` the same places are holes that are filled again and again, every dense edit starting from the
series' own result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.series_plot import plot
from benchmarks.series_table import table
from benchmarks.weights import weights_of
from sparsedit.editor import SparseEditor
from sparsedit.files import write_atomic
from sparsedit.metrics.fidelity import fidelity
from sparsedit.metrics.pixels import Mask
from sparsedit.models.loading import load_pipeline
from sparsedit.plan import Edit
from sparsedit.results import Result
from sparsedit.settings import POLICIES, resolve
from sparsedit.sparse import dilate
from sparsedit.suites.scenes.caption import caption
from sparsedit.suites.scenes.edits import EDITS, FIRST_TEST_SEED, EditPair, SceneEdit, draw_edit, edit_scene
from sparsedit.suites.scenes.scene import Scene, sample_scene

RESULTS = Path(__file__).parent / "results"
FILES = {"sdedit": "series", "inpaint": "series-inpaint"}
STRENGTHS = {"sdedit": 0.7, "inpaint": 0.9}
GUIDANCE = 4.0
HOLE_MARGIN = 4
"""Pixels around a change that a hole takes in, as a mask drawn by hand does."""
NORMS = ("original", "updated")
POLICY = resolve({}, series=True).policy
SMALLEST, LARGEST = 0.003, 0.12
"""Shares of edited pixels of the edits taken: the small ones that thin passes are for."""
TRIES = 200
"""Draws after which a scene is given up: one without house, trees and lake has few things to change."""

Row = dict[str, Any]


def chains(scenes: int, edits: int) -> Iterator[tuple[int, list[EditPair]]]:
    """The first `scenes` scenes that can be changed `edits` times, by seed, and their changes in order."""
    for seed in count():
        if not scenes:
            return
        chain = _chain(sample_scene(FIRST_TEST_SEED + 500_000 + seed), edits, np.random.default_rng([seed, 11]))
        if len(chain) == edits:
            scenes -= 1
            yield seed, chain


def _chain(scene: Scene, edits: int, rng: np.random.Generator) -> list[EditPair]:
    """Changes of one scene, each of the scene the last one left, and no kind twice in a row."""
    chain: list[EditPair] = []
    kinds = [kind for kind, edit in EDITS.items() if edit.local]
    for _ in range(TRIES):
        kind = str(rng.choice(kinds))
        target = edit_scene(scene, kind, rng)
        if target is None or (chain and chain[-1].kind == kind):
            continue
        pair = draw_edit(SceneEdit(kind, scene, target, caption(scene), caption(target)))
        if SMALLEST < (pair.painted != pair.source_picture).any(-1).mean() < LARGEST:
            chain.append(pair)
            scene = target
        if len(chain) == edits:
            break
    return chain


def measure(editors: dict[str, SparseEditor], seed: int, chain: list[EditPair], task: str, steps: int) -> Iterator[Row]:
    """One row for every position, norm and way of one scene."""
    prompt = caption(chain[-1].target, seed, full=True)
    settings: dict[str, Any] = {"prompt": prompt, "task": task, "steps": steps, "guidance": GUIDANCE}
    settings["strength"] = STRENGTHS[task]
    for norm, editor in editors.items():
        editor.record_request(editor.request(Image.fromarray(chain[0].source_picture), **settings))
        edited = np.zeros(chain[0].mask.shape, dtype=bool)
        for position, pair in enumerate(chain, 1):
            dense, fresh, series = _three(editor, _edit(pair, task))
            inside = series.plan.changed.numpy()
            edited |= inside
            facts = {"scene": seed, "norm": norm, "position": position, "kind": pair.kind}
            facts |= {
                "steps": int(steps * STRENGTHS[task]),
                "edit_ratio": float(inside.mean()),
                "edited": float(edited.mean()),
            }
            for way, result in (("fresh", fresh), ("series", series)):
                yield facts | {"way": way} | _scores(result, dense, {"inside": inside, "edited": edited})


def _edit(pair: EditPair, task: str) -> Edit:
    """The strokes of a change, or a hole in their place."""
    if task == "sdedit":
        return Edit(Image.fromarray(pair.painted), upon=Image.fromarray(pair.source_picture))
    changed = torch.from_numpy((pair.painted != pair.source_picture).any(-1))
    return Edit(mask=dilate(changed, HOLE_MARGIN))


def _three(editor: SparseEditor, edit: Edit) -> tuple[Result, Result, Result]:
    """The next edit of a series made densely, thinly on a recording of its own, and thinly in the series."""
    recorded = editor.recorded
    assert recorded is not None
    dense = editor.dense(recorded.request, edit)
    editor.record_request(recorded.request)
    fresh = editor.apply(edit)
    editor.recorded = recorded
    return dense, fresh, editor.advance(edit)


def _scores(result: Result, dense: Result, regions: dict[str, Mask]) -> Row:
    scores = fidelity(result.image, dense.image, regions)
    return {f"{region}_psnr": scores[region]["psnr"] for region in (*regions, "whole")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.series", description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=4, help="default: %(default)s")
    parser.add_argument(
        "--edits", type=int, default=10, help="of each scene, one after the other; default: %(default)s"
    )
    parser.add_argument("--task", choices=FILES, default="sdedit", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="of the whole schedule; default: %(default)s")
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=list(NORMS), help="default: both")
    arguments = parser.parse_args()
    raw = RESULTS / f"{FILES[arguments.task]}.jsonl"
    pipe: Any = load_pipeline("demo")
    calls = int(arguments.steps * STRENGTHS[arguments.task])
    lines = map(json.loads, raw.read_text().splitlines() if raw.exists() else [])
    mark = {"weights": weights_of(pipe), "policy": POLICY}
    rows = [row for row in lines if row["steps"] == calls and mark.items() <= row.items()]  # of no other training
    for seed, chain in chains(arguments.scenes, arguments.edits):
        done = {row["norm"] for row in rows if (row["scene"], row["position"]) == (seed, arguments.edits)}
        norms = [norm for norm in arguments.norms if norm not in done]
        editors = {norm: SparseEditor(pipe, policy=POLICIES[POLICY], norm=norm, break_even=1.0) for norm in norms}
        made = measure(editors, seed, chain, arguments.task, arguments.steps)
        new = [row | mark for row in made]
        rows = [row for row in rows if row["scene"] != seed or row["norm"] not in editors] + new
        write_atomic(raw, "".join(json.dumps(row) + "\n" for row in rows).encode())
        plot(rows, raw.with_suffix(".png"))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
