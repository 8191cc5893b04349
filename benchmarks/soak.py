"""Thousands of small edits in one process: memory, file handles and threads must not grow.

    make bench-soak                                      # 2,000 edits of a tiny model
    python -m benchmarks.soak --edits 200                # a shorter look

Every edit has a mask of its own; ways and prompts take turns, and each round is a run of its own with pictures of three
sizes, several edits of each, records, scores and a page. Samples are taken after every round, behind the garbage
collector. Leaves a document and a plot; the exit code is 1 where something grew. How fast it is says nothing: the model
is the tests' tiny one with SDXL's layout, pictures are 96 pixels wide at most, and a schedule has two steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image, ImageDraw

from benchmarks.machine import machine_slug
from sparsedit.engines.local import run_jobs
from sparsedit.environment import environment
from sparsedit.errors import InputError
from sparsedit.jobs import plan_jobs
from sparsedit.manifest import load_manifest
from sparsedit.progress import Progress
from sparsedit.report.page import write_page
from sparsedit.runs import RunFolder
from tests.pipelines import tiny_sdxl

EDITS, WARM_UP, MOST = 2000, 0.2, 0.02
SIZES = ((64, 64), (96, 64), (61, 90))
WAYS = ("alongside", "warm", "cold")
WORDS = ("house", "tree", "lake", "boat", "moon", "hill", "road", "bird")
VARIANTS = 8
SETTINGS: dict[str, Any] = {"steps": 2, "strength": 1.0, "guidance": 3.0}


@dataclass(frozen=True)
class Sample:
    """What the process held after so many edits: resident bytes, open file handles, threads."""

    edits: int
    resident: int
    handles: int
    threads: int

    @classmethod
    def now(cls, edits: int) -> Sample:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        return cls(edits, pages * os.sysconf("SC_PAGE_SIZE"), *held)


def growth(samples: Sequence[Sample], warm_up: float = WARM_UP) -> dict[str, float]:
    """By how much the last tenth of the samples lies above the tenth that follows the warm-up: memory as a share of
    it, handles and threads as numbers.

    Raises InputError for fewer than ten samples after the warm-up.
    """
    steady = samples[round(warm_up * len(samples)) :]
    if len(steady) < 10:
        raise InputError(f"{len(steady)} samples after the warm-up are too few to see a trend; run more edits")
    tenth = len(steady) // 10
    found = {}
    for name in ("resident", "handles", "threads"):
        values = [getattr(sample, name) for sample in steady]
        first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
        found[name] = last / first - 1 if name == "resident" else last - first
    return found


def flat(found: dict[str, float]) -> bool:
    """Whether nothing grew by more than it may."""
    return found["resident"] < MOST and found["handles"] <= 0 and found["threads"] <= 0


def write_round(folder: Path, number: int) -> Path:
    """A manifest with edits of a picture of every size in one of the ways, drawn from the round's number."""
    draw = random.Random(number)
    cases = []
    for width, height in SIZES:
        name = f"{width}x{height}"
        original = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        original.paste(_colour(draw), (0, height // 2, width, height))
        original.save(folder / f"{name}.png")
        variants = []
        for edit in range(VARIANTS):
            picture, left, top = original.copy(), draw.randrange(width - 12), draw.randrange(height - 12)
            ImageDraw.Draw(picture).ellipse((left, top, left + 10, top + 10), fill=_colour(draw))
            picture.save(folder / f"{name}-{edit}.png")
            variants.append({"id": f"edit{edit}", "edited": f"{name}-{edit}.png"})
        prompt = " ".join(draw.choices(WORDS, k=3))
        cases.append({"id": name, "original": f"{name}.png", "prompt": prompt, "variants": variants})
    way = WAYS[number % len(WAYS)]
    defaults = SETTINGS | {"way": way, "seed": number} | ({"coarse": 2} if way == "cold" else {})
    manifest = folder / "manifest.yaml"
    manifest.write_text(json.dumps({"version": 1, "defaults": defaults, "cases": cases}), encoding="utf-8")
    return manifest


def _colour(draw: random.Random) -> tuple[int, int, int]:
    return draw.randrange(256), draw.randrange(256), draw.randrange(256)


def soak(pipe: DiffusionPipeline, edits: int, folder: Path) -> list[Sample]:
    """Make so many edits, in rounds that each begin the run in `folder` anew; a sample after every round.

    Raises InputError for an edit that fails.
    """
    from rich.console import Console

    samples: list[Sample] = []
    done = number = 0
    while done < edits:
        jobs = plan_jobs(load_manifest(write_round(folder, number)), {}, {}, {})
        with RunFolder.begun(folder / "run", overwrite=True) as run:
            watch = Progress(Console(quiet=True), len(SIZES) * VARIANTS, 1)
            records = list(run_jobs(jobs, pipe, "tiny", run, watch, "soak"))
            write_page(run.path, records, {})
        if failed := [record["reason"] for record in records if record["status"] != "ok"]:
            raise InputError(f"an edit failed in round {number}: {failed[0]}")
        done, number = done + len(records), number + 1
        samples.append(Sample.now(done))
        print(f"\r{done} of {edits} edits, {samples[-1].resident / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def plot(samples: Sequence[Sample], found: dict[str, float], picture: Path) -> None:
    """Draw memory, handles and threads over the edits."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 3.6), layout="constrained")
    left = drawing.subplots()
    edits = [sample.edits for sample in samples]
    left.plot(edits, [sample.resident / 1e6 for sample in samples], color="#0072b2", label="memory, MB")
    left.axvline(WARM_UP * edits[-1], color="#888888", linestyle=":", label="end of the warm-up")
    left.set(xlabel="edits in one process", ylabel="resident memory, MB")
    left.set_ylim(0, 1.25 * max(sample.resident for sample in samples) / 1e6)
    right = left.twinx()
    right.plot(edits, [sample.handles for sample in samples], color="#d55e00", label="file handles")
    right.plot(edits, [sample.threads for sample in samples], color="#009e73", label="threads")
    right.set(ylim=(0, 2 * max(max(sample.handles, sample.threads) for sample in samples)), ylabel="handles, threads")
    left.set_title(f"memory {found['resident']:+.2%} after the warm-up", fontsize=10)
    left.grid(alpha=0.3)
    drawing.legend(loc="outside lower center", ncols=4, fontsize=8)
    drawing.savefig(picture, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=EDITS)
    parser.add_argument("--output", type=Path, help="folder of the document and the plot")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = environment()
    output = options.output or Path(__file__).parent / "results" / machine_slug(facts)
    with tempfile.TemporaryDirectory() as place:
        pipe: Any = tiny_sdxl()
        samples = soak(pipe, options.edits, Path(place))
    found = growth(samples)
    document = {"edits": options.edits, "growth": found, "flat": flat(found), "environment": facts}
    document["round"] = {"sizes": SIZES, "variants": VARIANTS, "ways": WAYS, "settings": SETTINGS}
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document | {"samples": [asdict(sample) for sample in samples]}, indent=1)
    (output / "soak.json").write_text(text + "\n", encoding="utf-8")
    plot(samples, found, output / "soak.png")
    print(json.dumps(document["growth"] | {"flat": document["flat"]}))
    return 0 if document["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
