"""Edits by words, by lines and of canvases, sparse beside dense, over the demo suite: fidelity, cost, success.

    python -m benchmarks.tasks                  adds edits to the rows in results/tasks.jsonl and prints the table
    python -m benchmarks.tasks --read           lets the attribute probe read the pictures made so far, and no more

`prompt` is every kind of edit the suite has, of pictures made from noise, `prompt-50` the same in 50 steps instead of
20; `first` with masks found in the first steps and no step left out, `words` with masks from attention, `photo` of
rendered pictures, which are inverted. Beside each stands a dense edit of so few steps that it costs what the sparse one
does in multiply-adds. Whether a picture shows what was asked for is read off it by the probe of `training/`
(`python -m training.pictures`, then `training.probe` make it), whose own errors are counted on the rendered scenes.
`control` shows a ControlNet the edges of the edited scene in place of the original's, `control-4` and `control-1` a
few-step model's. `pan` and `rotate` move the canvas, `chain` and `turning` by four small motions upon each other.

Pictures lie in the folder --pictures, a row for each edit in the file. Its seconds are as good as the machine was idle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.tasks_kinds import KINDS, SIZE, Kind
from benchmarks.tasks_read import read
from benchmarks.tasks_table import table
from benchmarks.weights import weights_of
from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter
from sparsedit.engines.entries import Done, stage_entries
from sparsedit.files import write_atomic
from sparsedit.images import save_image, to_image
from sparsedit.metrics.fidelity import fidelity
from sparsedit.models.loading import load_pipeline
from sparsedit.plan import Edit
from sparsedit.suites.demo import DemoItem, demo_item

RAW = Path(__file__).parent / "results" / "tasks.jsonl"
SMALLEST, LARGEST = 0.003, 0.12
"""Shares of edited pixels of the scenes whose lines are edited."""

Row = dict[str, Any]


def items(kind: Kind, count: int) -> Iterator[tuple[int, DemoItem]]:
    """The first `count` edits of the suite that are of a fitting size, with their places in it."""
    index = 0
    while count:
        item = demo_item(index)
        if not kind.lines or SMALLEST < item.pictures().mask.mean() < LARGEST:
            count -= 1
            yield index, item
        index += 1


def measure(
    editor: SparseEditor, counter: Counter, name: str, index: int, item: DemoItem, pictures: Path
) -> Iterator[Row]:
    """One original recorded, edited sparsely and densely -> a row for each edit upon the other; pictures are saved."""
    kind = KINDS[name]
    prompt = item.target_prompt if kind.lines else item.source_prompt  # of lines one prompt, so that they alone differ
    original = None if kind.generated else item.pictures().original
    size = SIZE if kind.generated else None
    request = editor.request(original, size=size, prompt=prompt, seed=index, **kind.settings)
    edit = kind.edit(item, index)
    editor.record_request(request)
    for position in range(1, kind.chained + 1):
        whole = editor.recorded
        assert whole is not None  # a recording, or what the last edit made of it
        result = editor.apply(edit) if kind.chained == 1 else editor.advance(edit)
        done = Done(whole.request, whole, result, editor.dense(whole.request, edit))
        _save(pictures / name / item.id / str(position), done)
        facts: Row = {"kind": name, "item": item.id, "edit": item.edit.kind, "index": index, "position": position}
        facts |= {"prompt": prompt, "edit_prompt": result.plan.prompt, "by": edit.by, "angle": edit.angle}
        facts |= {"way": result.way, "reason": result.reason, "steps": request.schedule.calls}
        facts |= {
            "dense_calls": result.dense_calls,
            "left_out_calls": result.left_out_calls,
            "mask_ratio": float(result.plan.hole.float().mean()),
        }
        facts |= _scores(item, done) | _costs(counter, editor, done)
        if whole.request.task == "prompt":
            facts |= _fewer(editor, kind, item, done, facts, pictures / name / item.id / str(position))
        yield facts


def _fewer(editor: SparseEditor, kind: Kind, item: DemoItem, done: Done, facts: Row, folder: Path) -> Row:
    """A dense edit of as many steps as the sparse one's multiply-adds pay for, beside the dense one; saved, too."""
    assert done.dense is not None
    request = done.request
    calls = max(1, round(facts["share"] * request.schedule.calls))
    settings = kind.settings | {"steps": round(calls / kind.settings["strength"])}
    original, size = (None, SIZE) if kind.generated else (item.pictures().original, None)
    short = editor.request(original, size=size, prompt=request.prompt, seed=request.seed, **settings)
    fewer = editor.dense(short, Edit(prompt=done.result.plan.prompt))
    save_image(fewer.image, folder / "fewer.png")
    inside = fidelity(fewer.image, done.dense.image, {"inside": done.result.plan.changed.numpy()})["inside"]
    return {"fewer_steps": short.schedule.calls, "fewer_inside_psnr": inside["psnr"] if inside else None}


def _scores(item: DemoItem, done: Done) -> Row:
    """Fidelity of the sparse edit to the dense one, and of both to the original where nothing was to change.

    `background` is all outside the sparse edit's mask, `generated` the sparse edit there before it is put upon the
    original; `elsewhere` is all outside the suite's own mask, where the original is a picture of the suite.
    """
    result, dense, whole = done.result, done.dense, done.whole
    assert dense is not None
    regions = {"inside": result.plan.changed.numpy(), "mask": result.mask.numpy()}
    scores = fidelity(result.image, dense.image, regions)
    row: Row = {f"{region}_psnr": scores[region]["psnr"] for region in (*regions, "whole")}
    kept = result.plan.picture if done.request.task in ("pan", "rotate") else whole.picture
    outside = ~result.mask
    row["outside_equal"] = torch.equal(result.picture[..., outside], kept[..., outside])
    regions = {"background": outside.numpy()}
    if done.request.task == "prompt" and not done.request.generated:
        regions["elsewhere"] = ~item.pictures().mask
    for who, picture in (("sparse", result.picture), ("generated", result.generated), ("dense", dense.picture)):
        scores = fidelity(to_image(picture), to_image(kept), regions)
        row |= {f"{region}_{who}": scores[region]["psnr"] for region in regions}
    return row


def _costs(counter: Counter, editor: SparseEditor, done: Done) -> Row:
    """Multiply-adds of the sparse edit as a share of the dense one's, by UNet and by all stages that see the picture,
    with the steps that find a mask; an inversion is the recording's. And the seconds of both."""
    assert done.dense is not None
    stages = stage_entries(counter, editor, done)
    seen = {stage: entry for stage, entry in stages.items() if stage not in ("text", "inversion")}
    dense = {stage: _macs(entry["dense"]) for stage, entry in seen.items()}
    sparse = {stage: _macs(entry.get("sparse") or entry["dense"]) for stage, entry in seen.items()}
    return {
        "unet_share": sparse["unet"] / dense["unet"],
        "share": sum(sparse.values()) / sum(dense.values()),
        "sparse_s": done.result.clock.total,
        "dense_s": done.dense.clock.total,
    }


def _macs(entry: Row) -> int:
    return int(entry["macs"]) + int(entry["attention_macs"])


def _save(folder: Path, done: Done) -> None:
    """The pictures of an edit, for the probe and for people."""
    result, dense, whole = done.result, done.dense, done.whole
    assert dense is not None
    folder.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(result.mask.numpy().astype(np.uint8) * 255)
    kept = {"original": to_image(whole.picture), "sparse": result.image, "dense": dense.image, "mask": mask}
    for name, picture in kept.items():
        save_image(picture, folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--count", type=int, default=20, help="edits of each; default: %(default)s")
    parser.add_argument("--pictures", type=Path, default=Path("runs/tasks"), help="default: %(default)s")
    parser.add_argument("--read", action="store_true", help="make nothing, read the pictures made so far")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
    if not arguments.read:
        for name in arguments.kinds:
            rows = _fill(rows, name, arguments.count, arguments.pictures)
    else:
        rows = [read(row, arguments.pictures) for row in rows]
        _write(rows)
    print(table(rows), flush=True)


def _fill(rows: list[Row], name: str, count: int, pictures: Path) -> list[Row]:
    """The rows with those of one kind that were missing, or made by other weights; written as they come."""
    kind = KINDS[name]
    pipe: Any = load_pipeline(**kind.model)
    weights = weights_of(pipe)
    rows = [row for row in rows if row["kind"] != name or row["weights"] == weights]
    done = {row["item"] for row in rows if row["kind"] == name}
    editor, counter = kind.editor(pipe, **kind.options), Counter()
    for index, item in items(kind, count):
        if item.id not in done:
            made = measure(editor, counter, name, index, item, pictures)
            rows += [row | {"weights": weights} for row in made]
            _write(rows)
            print(f"{name} {item.id}: {rows[-1]['way']}, {rows[-1]['unet_share']:.3f} of the UNet", flush=True)
    return rows


def _write(rows: list[Row]) -> None:
    write_atomic(RAW, "".join(json.dumps(row) + "\n" for row in rows).encode())


if __name__ == "__main__":
    main()
