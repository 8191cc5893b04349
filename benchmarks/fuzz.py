"""A thousand seeded works, sound and damaged, through the command line: an exit code, one sentence, whole files.

    python -m benchmarks.fuzz                            # 1,000 works of a tiny model
    python -m benchmarks.fuzz --works 50 --from 7000     # other seeds

A work is a manifest with its pictures for `edit`, two pictures for `compare`, or a finished run for `report`, half of
them with a fault in a value, in the manifest's text, in a picture or in a file of the run. Most run in this
process, through the same Typer app, sharing one model; one in PROCESSES is a process of its own that loads it. Leaves
a document with what came of the works; the exit code is 1 where a promise was not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image, ImageDraw

from sparsedit import cli
from sparsedit.models import loading
from sparsedit.records import read_records

ROOT = Path(__file__).parents[1]
WORKS, FIRST, PROCESSES = 1000, 1000, 20
PROMPTS = ("", "a house", "{} %s [bold]x[/] $(id)", "בית על הר", "é" * 3000, "a\0b", "\x1b[31m=1+1", "'; --")
ODD_VALUES: tuple[Any, ...] = (None, -1, 0, 1e999, "no", "1e-3", [], {}, True, 10**30, "\u202e", "../x.png", "\ud800")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
FAULTS = {
    "edit": ("none", "none", "value", "text", "picture"),
    "compare": ("none", "picture"),
    "report": ("none", "record", "record", "file"),
}
PROMISED = {"edit": (0, 1, 2), "compare": (0, 2, 3), "report": (0, 1, 2)}


@dataclass(frozen=True)
class Work:
    """A command line and the fault that was put into what it reads."""

    kind: str
    fault: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[[Sequence[str]], Outcome]


def run_here(arguments: Sequence[str]) -> Outcome:
    """A command line in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.run(arguments)
    return Outcome(code, out.getvalue(), err.getvalue())


def run_apart(arguments: Sequence[str]) -> Outcome:
    """A command line in a process of its own."""
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | {"COLUMNS": "80"})
    return Outcome(done.returncode, done.stdout, done.stderr)


# What is worked on


def draw_case(draw: random.Random, folder: Path, name: str) -> dict[str, Any]:
    """Pictures of a random size, mode and format, with an edit and a mask, and the case that names them."""
    size = (draw.choice((1, 5, 8, 16, 23, 32)), draw.choice((1, 8, 13, 24)))
    form = draw.choice(FORMATS)
    original = Image.effect_noise(size, 40).convert(draw.choice(("RGB", "L")))
    edited, mask = original.copy(), Image.new("L", size)
    box = sorted(draw.choices(range(size[0]), k=2)), sorted(draw.choices(range(size[1]), k=2))
    corners = (box[0][0], box[1][0], box[0][1], box[1][1])
    ImageDraw.Draw(edited).rectangle(corners, fill=draw.choice(("red", "white", "black")))
    ImageDraw.Draw(mask).rectangle(corners, fill=255)
    names = {kind: f"{name}-{kind}.{form.lower()}" for kind in ("original", "edited")} | {"mask": f"{name}-mask.png"}
    for kind, picture in (("original", original), ("edited", edited)):
        picture.save(folder / names[kind], format=form)
    mask.save(folder / names["mask"])
    variants = [
        {"id": "stroke", "edited": names["edited"]},
        {"id": "hole", "mask": names["mask"], "task": "inpaint", "prompt": draw.choice(PROMPTS)},
    ]
    chosen = draw.sample(variants, draw.randrange(1, 3))
    return {"id": name, "original": names["original"], "prompt": draw.choice(PROMPTS), "variants": chosen}


def change_value(draw: random.Random, document: Any) -> None:
    """Change, drop or misspell one key somewhere in a document."""
    place = draw.choice([each for each in _mappings(document) if each])
    key = draw.choice(list(place))
    match draw.randrange(3):
        case 0:
            place[key] = draw.choice(ODD_VALUES)
        case 1:
            del place[key]
        case _:
            place[key[:-1]] = place.pop(key)


def _mappings(value: Any) -> list[dict[str, Any]]:
    """A mapping and all that it holds."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if isinstance(value, dict) else []) + [each for part in inner for each in _mappings(part)]


def change_bytes(draw: random.Random, path: Path) -> None:
    """Cut a file short, change some of its bytes, or put others in between."""
    data = bytearray(path.read_bytes())
    match draw.randrange(3):
        case 0:
            del data[draw.randrange(len(data)) :]
        case 1:
            for _ in range(draw.randrange(1, 20)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case _:
            at = draw.randrange(len(data))
            data[at:at] = draw.randbytes(draw.randrange(1, 200))
    path.write_bytes(data)


def write_edit(draw: random.Random, folder: Path, fault: str, model: str) -> Work:
    """A manifest with its pictures."""
    cases = [draw_case(draw, folder, f"case{number}") for number in range(draw.randrange(1, 3))]
    way = draw.choice(("alongside", "warm", "cold"))
    defaults = {"steps": 2, "strength": 1.0, "guidance": 2.0, "way": way, "dense": draw.random() < 0.3}
    document = {"version": 1, "defaults": defaults | ({"coarse": 2} if way == "cold" else {}), "cases": cases}
    if fault == "value":
        change_value(draw, document)
    manifest = folder / "manifest.yaml"
    manifest.write_text(json.dumps(document), encoding="utf-8")
    if fault == "text":
        change_bytes(draw, manifest)
    if fault == "picture":
        change_bytes(draw, draw.choice(sorted(folder.glob("case*"))))
    form = draw.choice(("table", "json", "csv", "md"))
    output = ("-o", str(folder / "run"), "--output-format", form)
    return Work("edit", fault, ("edit", str(manifest), "-m", model, *output))


def write_compare(draw: random.Random, folder: Path, fault: str) -> Work:
    """Two pictures, one with an edit, and a threshold that may or may not be met."""
    draw_case(draw, folder, "case")
    pictures = sorted(path for path in folder.iterdir() if "mask" not in path.name)
    if fault == "picture":
        change_bytes(draw, draw.choice(pictures))
    mask = ("--mask", str(folder / "case-mask.png")) if draw.random() < 0.5 else ()
    limit = ("--fail-if", f"psnr<{draw.choice((1, 20, 99))}", "--metrics", "psnr,mse")
    return Work("compare", fault, ("compare", *map(str, pictures[::-1]), *mask, *limit))


def write_report(draw: random.Random, folder: Path, fault: str, finished: Path) -> Work:
    """A copy of a finished run, with a wrong value in a record or wrong bytes in a file."""
    run = folder / "run"
    for source in finished.rglob("*"):
        if source.is_file():
            target = run / source.relative_to(finished)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    if fault == "record":
        records = read_records(run / "records.jsonl")
        for _ in range(draw.randrange(1, 4)):
            change_value(draw, records)
        lines = (json.dumps(record).replace("Infinity", "1e999") + "\n" for record in records)
        (run / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    if fault == "file":
        change_bytes(draw, draw.choice(sorted(path for path in run.rglob("*") if path.is_file())))
    form = draw.choice(("table", "json", "csv", "md", "latex", "html"))
    return Work("report", fault, ("report", str(run), "--output-format", form))


def write_work(draw: random.Random, folder: Path, model: str, finished: Path | None) -> Work:
    """A work of some kind; runs are reported once there is a `finished` one."""
    kind = draw.choices(tuple(FAULTS), (70, 15, 15))[0]
    if kind == "report" and finished is None:
        kind = "edit"
    fault = draw.choice(FAULTS[kind])
    if kind == "edit":
        return write_edit(draw, folder, fault, model)
    if kind == "compare":
        return write_compare(draw, folder, fault)
    assert finished is not None
    return write_report(draw, folder, fault, finished)


# What is promised


def broken_promises(work: Work, outcome: Outcome, folder: Path, before: dict[Path, str]) -> list[str]:
    """Which promises of docs/faults.md a work's end does not keep, in words; `before` is what `contents` said."""
    said = outcome.out + outcome.err
    broken = []
    if outcome.code not in PROMISED[work.kind]:
        broken.append(f"exit code {outcome.code}")
    broken += [f"says {word!r}" for word in ("Traceback", "defect", "\x1b") if word in said]
    after = contents(folder)
    if outcome.code == 2:
        if not outcome.err.strip():
            broken.append("no sentence")
        if after != before:
            broken.append("files were written or changed")
        return broken
    if any(after.get(path) != digest for path, digest in before.items() if path.name != "report.html"):
        broken.append("what was read is changed")
    broken += [f"{path.name} is left" for path in after if path.suffix == ".tmp"]
    return broken + (_unfinished(folder / "run", outcome.code) if work.kind == "edit" else [])


def _unfinished(run: Path, code: int) -> list[str]:
    """What is not whole in the folder of a run that ended with this code."""
    gone = [f"no {name}" for name in ("records.jsonl", "report.html") if not (run / name).is_file()]
    if gone:
        return gone
    broken = []
    records = read_records(run / "records.jsonl")
    if all(record["status"] == "ok" for record in records) != (code == 0):
        broken.append("records and exit code do not agree")
    if not (run / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>"):
        broken.append("half a page")
    return broken + [f"{picture.name} is no whole picture" for picture in run.rglob("*.png") if not _whole(picture)]


def _whole(picture: Path) -> bool:
    try:
        Image.open(picture).load()
    except OSError:
        return False
    return True


def contents(folder: Path) -> dict[Path, str]:
    """Every file below a folder with the hash of what it holds."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


# All of them


@dataclass
class Tally:
    """What came of works: how many of each kind, fault and exit code, and which broke a promise."""

    ended: Counter[tuple[str, str, int]]
    broken: list[dict[str, Any]]
    apart: int = 0
    finished: Path | None = None

    def codes(self) -> set[int]:
        return {code for _, _, code in self.ended}

    def table(self) -> dict[str, dict[str, int]]:
        """By kind and fault: how many works ended with which exit code."""
        rows: dict[str, dict[str, int]] = {}
        for (kind, fault, code), count in sorted(self.ended.items()):
            rows.setdefault(f"{kind}, {fault}", {})[str(code)] = count
        return rows


def fuzz(seeds: Sequence[int], place: Path, model: str, tally: Tally, *, apart_every: int = 0) -> None:
    """Do the works of `seeds` in folders below `place`; with `apart_every` each so many-th in a process of its own."""
    for number, seed in enumerate(seeds, 1):
        folder = place / str(seed)
        folder.mkdir()
        draw = random.Random(seed)
        work = write_work(draw, folder, model, tally.finished)
        before = contents(folder)
        apart = bool(apart_every) and number % apart_every == 0
        tally.apart += apart
        outcome = (run_apart if apart else run_here)(work.arguments)
        tally.ended[work.kind, work.fault, outcome.code] += 1
        if broken := broken_promises(work, outcome, folder, before):
            tally.broken.append({"seed": seed, "work": work.kind, "fault": work.fault, "broken": broken})
            print(f"\n{tally.broken[-1]}\n{outcome.err}", file=sys.stderr)
        if work.kind == "edit" and outcome.code == 0 and tally.finished is None:
            tally.finished = folder / "run"
        print(f"\r{number} of {len(seeds)} works", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    from tests.pipelines import tiny_sdxl

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", type=int, default=WORKS)
    parser.add_argument("--from", type=int, default=FIRST, dest="first", help="the first seed")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    options = parser.parse_args(arguments)
    tally = Tally(Counter(), [])
    with tempfile.TemporaryDirectory() as folder:
        place, model = Path(folder) / "works", Path(folder) / "model"
        place.mkdir()
        pipe: Any = tiny_sdxl()
        pipe.save_pretrained(model)
        pipe = loading.load_pipeline(str(model), device="cpu")
        seeds = range(options.first, options.first + options.works)
        with mock.patch.object(loading, "load_pipeline", return_value=pipe):
            fuzz(seeds, place, str(model), tally, apart_every=PROCESSES)
    document = {
        "works": len(seeds),
        "first_seed": options.first,
        "in_processes_of_their_own": tally.apart,
        "exit_codes": tally.table(),
        "broken_promises": tally.broken,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
