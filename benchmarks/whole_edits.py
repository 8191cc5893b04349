"""A whole warm edit against the size of the edit, as its users get it: is it ever slower than the dense one?

    python -m benchmarks.whole_edits [--model NAME] [--size WxH] [--steps N] [--strength S] [--guidance G]
                                     [--ratios R,R,...] [--samples N] [--output DIR]

From the call to the picture, planning, pictures in and out and every step included, once the original is recorded; by
`SparseEditor` as it comes, which runs an edit densely where it expects no gain. The dense edit is the stock
pipeline's. Every round makes the dense edit and then each warm one. Presets other than the demo's run on random
weights. Writes whole-edits.json (raw samples, one curve for each model and size; a curve measured again replaces the
old one) and whole-edits.md into DIR, by default benchmarks/results/MACHINE. The last line on stdout is one JSON
document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.edit_sizes import ratio_list, say, size_of
from benchmarks.machine import machine_slug
from sparsedit.editor import SparseEditor
from sparsedit.environment import environment
from sparsedit.files import write_atomic
from sparsedit.measure.rounds import interleave
from sparsedit.measure.spread import Spread, ratios
from sparsedit.measure.warnings import busy, doubts, load_average
from sparsedit.models.loading import load_pipeline
from sparsedit.models.placement import resolve_device
from sparsedit.models.presets import get_preset
from sparsedit.plan import Edit, Request
from sparsedit.profiling.edits import TOTAL, EditRuns
from sparsedit.profiling.synthetic import PATTERNS, synthetic_edit, synthetic_picture
from sparsedit.report.numbers import figure, percent, times
from sparsedit.report.text import to_markdown

RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
PROMPT = "a green meadow under snowy mountains by day"
HEADINGS = ("edited", "sites", "ran", "seconds", "speed-up")


@dataclasses.dataclass(frozen=True)
class Point:
    """One edit size: what is edited, the share of latent sites that follows, and the way the editor takes."""

    pattern: str
    edit_ratio: float
    sites: float
    way: str
    runs: EditRuns

    @property
    def name(self) -> str:
        return f"{self.pattern} {self.edit_ratio:.1%}"


def points(editor: SparseEditor, request: Request, shares: Sequence[float]) -> list[Point]:
    """The edits of a curve, each made once, which shows the way it takes; of those that reach every site the first."""
    found: list[Point] = []
    for pattern in PATTERNS:
        for share in shares:
            edit: Edit = synthetic_edit(request.original, share, pattern)
            result = editor.apply(edit)
            sites = result.plan.sites
            reached = sites.fraction(editor.stages.latent_size(*sites.size))
            if reached < 1 or all(point.sites < 1 for point in found):
                runs = EditRuns(editor, request, edit)
                found.append(Point(pattern, result.plan.edit_ratio, reached, result.way, runs))
    return found


def curve(name: str, size: tuple[int, int], settings: Mapping[str, Any], shares: Sequence[float], samples: int) -> Any:
    """Measure one model over all edit sizes."""
    load = load_average()
    say(f"{name}: {size[0]}x{size[1]}, {settings}")
    editor = SparseEditor(load_pipeline(name, weights="real" if name.startswith("demo") else "random"))
    request = editor.request(synthetic_picture(size[1], size[0]), prompt=PROMPT, **settings)
    recorded = editor.record_request(request)
    edits = points(editor, request, shares)
    dense = EditRuns(editor, request, synthetic_edit(request.original, shares[0], PATTERNS[0]))
    runs = {"dense": dense.dense} | {point.name: point.runs.thin for point in edits}
    progress = partial(_progress, name)
    clocks = interleave(runs, editor.stages.device, samples=samples, warmup=0, on_round=progress)
    seconds = {name: clock.samples[TOTAL] for name, clock in clocks.items()}
    return {
        "model": name,
        "size": list(size),
        "settings": dict(settings) | {"steps_run": request.schedule.calls},
        "device": str(editor.stages.device),
        "dtype": str(editor.stages.unet.dtype).removeprefix("torch."),
        "record_s": recorded.clock.total,
        "cache_bytes": recorded.nbytes,
        "dense": {"seconds": seconds["dense"]},
        "points": [_entry(point, seconds) for point in edits],
        "load": load,
        "warnings": [
            *busy(load, os.cpu_count()),
            *doubts({f"the {key} edit": s for key, s in seconds.items()}, warmup=1),
        ],
        "environment": environment(),
    }


def _progress(name: str, number: int, total: int) -> None:
    say(f"  {name}: round {number} of {total}")


def _entry(point: Point, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    kept = {"pattern": point.pattern, "edit_ratio": point.edit_ratio, "sites": point.sites, "way": point.way}
    return kept | {"seconds": seconds[point.name]}


def speed_up(of: Mapping[str, Any], point: Mapping[str, Any]) -> Spread:
    """How many times as long the dense edit took, in every round that has both."""
    spread = Spread.of(ratios(of["dense"]["seconds"], point["seconds"]))
    assert spread is not None
    return spread


def markdown(document: Mapping[str, Any]) -> str:
    """Every curve as a table, with its slowest edit said below."""
    return "\n".join(part for each in document["curves"] for part in _table(each))


def _table(of: Mapping[str, Any]) -> list[str]:
    width, height = of["size"]
    settings, processor = of["settings"], of["environment"]["processor"]
    title = f"{of['model']}, {width}x{height}, {settings['steps_run']} of {settings['steps']} steps, {of['dtype']}"
    about = f"{processor['name']}, {processor['cores']} cores, torch {of['environment']['packages']['torch']}"
    dense = Spread.of(of["dense"]["seconds"])
    rows = [["dense", "–", "dense", figure(dense.median if dense else None), "–"]]
    worst = min(of["points"], key=lambda point: speed_up(of, point).median)
    for point in of["points"]:
        gain, taken = speed_up(of, point), Spread.of(point["seconds"])
        shown = f"{times(gain.median)} ({figure(gain.low)}–{figure(gain.high)})"
        name = f"{percent(point['edit_ratio'])} {point['pattern']}"
        rows.append([name, percent(point["sites"]), point["way"], figure(taken.median if taken else None), shown])
    said = f"slowest: {percent(worst['edit_ratio'])} {worst['pattern']}, {times(speed_up(of, worst).median)} of dense"
    lines = [f"recording took {figure(of['record_s'])} s", said, *of["warnings"]]
    return [f"**{title}** ({about})\n", to_markdown(HEADINGS, rows), "".join(f"- {line}\n" for line in lines)]


def merged(file: Path, new: Mapping[str, Any]) -> dict[str, Any]:
    """The document with this curve in the place of the one of the same model and size."""
    old = json.loads(file.read_text())["curves"] if file.exists() else []
    curves = {(each["model"], *each["size"]): each for each in (*old, new)}
    return {"schema": 1, "curves": list(curves.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a preset")
    parser.add_argument("--size", type=size_of, metavar="WxH", help="default: the model's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strength", type=float, default=0.7)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--ratios", type=ratio_list, default=RATIOS, metavar="R,R,...")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="DIR")
    asked = parser.parse_args()
    native = get_preset(asked.model).native_size
    settings = {"steps": asked.steps, "strength": asked.strength, "guidance": asked.guidance}
    new = curve(asked.model, asked.size or (native, native), settings, asked.ratios, asked.samples)
    machine = machine_slug(environment(), str(resolve_device("auto")))
    folder = asked.output or Path(__file__).parent / "results" / machine
    folder.mkdir(parents=True, exist_ok=True)
    document = merged(folder / "whole-edits.json", new)
    write_atomic(folder / "whole-edits.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    write_atomic(folder / "whole-edits.md", markdown(document).encode())
    print(json.dumps(new, allow_nan=False))


if __name__ == "__main__":
    main()
