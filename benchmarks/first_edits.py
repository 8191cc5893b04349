"""First edits on the clock of a large model: dense, skipping steps, cold, and upon a recording of some steps.

    python -m benchmarks.first_edits [--model NAME] [--size WxH] [--edit-ratio R] [--steps N] [--guidance G]
                                     [--coarse K ...] [--skip K ...] [--record-steps K ...] [--policy NAME]
                                     [--samples N] [--output DIR] [--table-only]

From the call to the picture, prompts, planning, encoder and decoder and every step included; every round makes every
edit once, the dense one, which is the stock pipeline's, first. Presets other than the demo's run on random weights, so
seconds are measured here, and what a number of dense steps is worth in dB on the demo model (`benchmarks.coarse`). The
table shows both, and for every line how much skipping steps is worth that takes as long (its seconds grow evenly with
its steps). Weights are re-ordered for thin passes before, which happens once a process. Writes first-edits.json (raw
samples, an entry for each model, size and policy; one measured again replaces the old one) and first-edits.md into
DIR, by default benchmarks/results/MACHINE. The last line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coarse import CALIBRATED, raw_of, table
from benchmarks.edit_sizes import say, size_of
from benchmarks.machine import machine_slug
from benchmarks.whole_edits import PROMPT
from sparsedit.editor import SparseEditor
from sparsedit.environment import environment
from sparsedit.errors import SettingsError, SparseditError
from sparsedit.files import write_atomic
from sparsedit.measure.clock import Clock
from sparsedit.measure.rounds import interleave
from sparsedit.measure.spread import ratios
from sparsedit.measure.warnings import busy, load_average
from sparsedit.models.loading import load_pipeline
from sparsedit.models.placement import resolve_device
from sparsedit.models.presets import get_preset
from sparsedit.plan import Edit, Request
from sparsedit.profiling.edits import TOTAL
from sparsedit.profiling.synthetic import synthetic_edit, synthetic_picture
from sparsedit.report.numbers import figure, percent, times
from sparsedit.report.text import to_markdown
from sparsedit.results import Result
from sparsedit.settings import POLICIES, resolve
from sparsedit.skipping import steps_kept

DENSE = "dense"
COLD = "cold"
SKIP = "step-skip"
RECORD = "recording"
FIRST = "record-steps, first edit"
NTH = "record-steps, n-th edit"
HEADINGS = ("edit", "dense steps", "seconds", "speed-up", "dB", "skipping as long, steps", "dB")
WORTH = {SKIP: "skip_inside", COLD: "cold_inside", FIRST: "record_inside", NTH: "record_inside"}
"""Where the table of `benchmarks.coarse` has what a way is worth."""

Worth = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Point:
    """One of the things that a round makes: its way, how many steps of it are dense, and the making itself."""

    way: str
    dense_steps: int
    make: Callable[[], object]

    @property
    def name(self) -> str:
        return f"{self.way}, {self.dense_steps} dense"

    def run(self, clock: Clock) -> None:
        with clock.stage(TOTAL):
            self.make()
        say(f"  {self.name}: {clock.samples[TOTAL][-1]:.1f} s")


def points(editor: SparseEditor, request: Request, edit: Edit, counts: Mapping[str, Sequence[int]]) -> list[Point]:
    """What one round makes, in order; `counts` by way, of how many dense steps. n-th edits follow their recording."""

    def dense() -> None:
        editor.recorded = None  # of the round before
        editor.dense(request, edit)

    def skip(count: int) -> None:
        kept = steps_kept(editor.stages.pipe.scheduler, count, request.schedule.calls)
        editor.dense(replace(request, schedule=replace(request.schedule, kept=kept)), edit)

    def cold(count: int) -> None:
        check_way(editor.cold(request, edit, count)[1], "cold")

    def record(count: int) -> None:
        editor.record_request(request, count)

    def nth(_count: int) -> None:
        check_way(editor.apply(edit), "warm")

    made = [Point(DENSE, request.schedule.calls, dense)]
    made += [Point(SKIP, count, partial(skip, count)) for count in counts[SKIP]]
    made += [Point(COLD, count, partial(cold, count)) for count in counts[COLD]]
    for count in counts[RECORD]:
        made += [Point(RECORD, count, partial(record, count)), Point(NTH, count, partial(nth, count))]
    return made


def check_way(result: Result, way: str) -> None:
    """Raise SettingsError for an edit that went another way than the one to be timed."""
    if result.way != way:
        raise SettingsError(f"an edit was to run {way} and ran {result.way}: {result.reason}")


def measure(made: Sequence[Point], editor: SparseEditor, samples: int) -> list[dict[str, Any]]:
    """Seconds of every edit in every round. A first edit upon some recorded steps is recording and edit together."""
    clocks = interleave({point.name: point.run for point in made}, editor.stages.device, samples=samples, warmup=0)
    entries, recording = [], [0.0]
    for point in made:
        seconds = clocks[point.name].samples[TOTAL]
        if point.way == RECORD:
            recording = seconds
            continue
        entries.append({"way": point.way, "dense_steps": point.dense_steps, "seconds": seconds})
        if point.way == NTH:
            first = [before + after for before, after in zip(recording, seconds, strict=True)]
            entries.append({"way": FIRST, "dense_steps": point.dense_steps, "seconds": first})
    return entries


def entry(name: str, size: tuple[int, int], ratio: float, asked: argparse.Namespace) -> dict[str, Any]:
    """All that is measured of one model at one size. Raises SettingsError for an edit that would run densely."""
    load = load_average()
    policy = resolve({"policy": asked.policy})
    pipe = load_pipeline(name, weights="real" if name.startswith("demo") else "random")
    editor = SparseEditor(pipe, policy=policy.mask_policy(), norm=policy.norm)
    settings = {"steps": asked.steps, "strength": 1.0, "guidance": asked.guidance}
    request = editor.request(synthetic_picture(size[1], size[0]), prompt=PROMPT, **settings)
    edit = synthetic_edit(request.original, ratio, "contiguous")
    say(f"{name}: {size[0]}x{size[1]}, {percent(ratio)} edited, {settings}; three steps first, which pack the weights")
    check_way(editor.cold(replace(request, schedule=replace(request.schedule, steps=3)), edit, 2)[1], "cold")
    counts = {SKIP: asked.skip, COLD: asked.coarse, RECORD: asked.record_steps}
    return {
        "model": name,
        "size": list(size),
        "edit_ratio": ratio,
        "settings": settings | {"steps_run": request.schedule.calls},
        "policy": policy.policy,
        "norm": policy.norm,
        "device": str(editor.stages.device),
        "dtype": str(editor.stages.unet.dtype).removeprefix("torch."),
        "points": measure(points(editor, request, edit, counts), editor, asked.samples),
        "load": load,
        "warnings": busy(load, os.cpu_count()),
        "environment": environment(),
    }


def merged(file: Path, new: Mapping[str, Any]) -> dict[str, Any]:
    """The document with this entry in the place of the one of the same model, size and policy."""
    old = json.loads(file.read_text())["curves"] if file.exists() else []
    entries = {(each["model"], *each["size"], each["policy"]): each for each in (*old, new)}
    return {"schema": 1, "curves": list(entries.values())}


def markdown(document: Mapping[str, Any]) -> str:
    """Every entry as a table."""
    return "\n".join(part for each in document["curves"] for part in _table(each))


def _table(of: Mapping[str, Any]) -> list[str]:
    width, height = of["size"]
    processor, packages = of["environment"]["processor"], of["environment"]["packages"]
    steps = of["settings"]["steps_run"]
    title = f"{of['model']}, {width}x{height}, {percent(of['edit_ratio'])} edited, {steps} steps, {of['dtype']}"
    title += f", policy {of['policy']}, norms {of['norm']}"
    about = f"{processor['name']}, {processor['cores']} cores, torch {packages['torch']}"
    rows = [_row(point, of) for point in of["points"]]
    notes = "PSNR inside the edit against the dense one, of the demo model with as many dense steps."
    return [
        f"**{title}** ({about}); {notes}\n",
        to_markdown(HEADINGS, rows),
        "".join(f"- {each}\n" for each in of["warnings"]),
    ]


def _row(point: Mapping[str, Any], of: Mapping[str, Any]) -> list[str]:
    way, count, seconds = point["way"], point["dense_steps"], point["seconds"]
    worth = worth_of(of)
    row = [way, str(count), figure(statistics.median(seconds)), times(speed_up(of, point))]
    row.append(figure(worth.get(way, {}).get(count)))
    if way in (DENSE, SKIP) or (a_step := seconds_of_a_step(of)) is None:
        return [*row, "–", "–"]
    dense = of["points"][0]
    as_long = dense["dense_steps"] - (statistics.median(dense["seconds"]) - statistics.median(seconds)) / a_step
    known = sorted(worth.get(SKIP, {}).items())
    inside = known and known[0][0] <= as_long <= known[-1][0]
    skipping = float(np.interp(as_long, [k for k, _ in known], [psnr for _, psnr in known])) if inside else None
    return [*row, figure(as_long), figure(skipping)]


def speed_up(of: Mapping[str, Any], point: Mapping[str, Any]) -> float:
    """How many times as long the dense edit took, by the median of the rounds."""
    return statistics.median(ratios(of["points"][0]["seconds"], point["seconds"]))


def seconds_of_a_step(of: Mapping[str, Any]) -> float | None:
    """What the dense edit takes longer than one that skips steps, for each of these; None where none was measured."""
    dense, skipped = of["points"][0], next((each for each in of["points"] if each["way"] == SKIP), None)
    if skipped is None:
        return None
    longer = statistics.median(dense["seconds"]) - statistics.median(skipped["seconds"])
    return float(longer / (dense["dense_steps"] - skipped["dense_steps"]))


def plotted(of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points as `benchmarks.tradeoff` has them: seconds measured here, decibels on the demo model.

    Skipping has a point for every number of steps whose worth is known, its seconds growing evenly with its steps.
    Empty where no worth is known.
    """
    worth, a_step = worth_of(of), seconds_of_a_step(of)
    made = [(point["way"], point["dense_steps"], speed_up(of, point)) for point in of["points"] if point["way"] != SKIP]
    if a_step is not None:
        steps, dense = of["points"][0]["dense_steps"], statistics.median(of["points"][0]["seconds"])
        made += [(SKIP, count, dense / (dense - (steps - count) * a_step)) for count in worth.get(SKIP, {})]
    known = [(way, count, speed) for way, count, speed in made if count in worth.get(way, {})]
    kinds = {FIRST: ("record-steps", True), NTH: ("record-steps", False)}
    return [
        {"dense_steps": count, "speed": speed, "psnr": worth[way][count], "policy": None}
        | dict(zip(("way", "first"), kinds.get(way, (way, False)), strict=True))
        for way, count, speed in known
    ]


def worth_of(of: Mapping[str, Any]) -> Worth:
    """PSNR in dB by way and dense steps, of schedules of as many steps and masks of the same policy; empty where none
    was measured."""
    raw, steps = raw_of(of["policy"]), of["settings"]["steps_run"]
    lines = raw.read_text(encoding="utf-8").splitlines() if raw.exists() else []
    rows = [row for row in table([json.loads(line) for line in lines]) if row["steps"] == steps]
    return {way: {row["dense_steps"]: row[column] for row in rows} for way, column in WORTH.items()}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a preset")
    parser.add_argument("--size", type=size_of, metavar="WxH", help="default: the model's own")
    parser.add_argument(
        "--edit-ratio", type=float, default=0.0172, help="share of the pixels; default: SIGE's SDEdit 0"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--coarse", type=int, nargs="*", default=[4, 6, 8], metavar="K")
    parser.add_argument("--skip", type=int, nargs="*", default=[7], metavar="K")
    parser.add_argument("--record-steps", type=int, nargs="*", default=[7], metavar="K")
    parser.add_argument("--policy", choices=POLICIES, default=CALIBRATED, help="of the masks; default: %(default)s")
    parser.add_argument("--samples", type=int, default=1, help="rounds; default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.add_argument("--table-only", action="store_true", help="measure nothing, write the table again")
    asked = parser.parse_args()
    for count in (*asked.coarse, *asked.skip, *asked.record_steps):
        if not 2 <= count < asked.steps:
            parser.error(f"{count} of {asked.steps} steps cannot stand for all of them: choose 2 to {asked.steps - 1}")
    machine = machine_slug(environment(), str(resolve_device("auto")))
    folder = asked.output or Path(__file__).parent / "results" / machine
    file = folder / "first-edits.json"
    if asked.table_only:
        if not file.exists():
            parser.error(f"nothing was measured yet: there is no {file}")
        document = json.loads(file.read_text())
    else:
        native = get_preset(asked.model).native_size
        new = entry(asked.model, asked.size or (native, native), asked.edit_ratio, asked)
        folder.mkdir(parents=True, exist_ok=True)
        document = merged(file, new)
        write_atomic(file, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        print(json.dumps(new, allow_nan=False))
    write_atomic(folder / "first-edits.md", markdown(document).encode())


def main() -> int:
    try:
        run()
    except SparseditError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
