"""Seeded manifests and pictures, sound and damaged, through the command line: an exit code, one sentence, whole files.

The engine is real and its model tiny. The long form is slow: `pytest -m slow tests/test_fuzz.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw

from sparsedit import cli
from sparsedit.records import read_records
from tests.pipelines import tiny_sdxl

SHORT, LONG = range(12), range(12, 1012)
PROMPTS = ("", "a house", "{} %s [bold]x[/] $(id)", "בית על הר", "é" * 3000, "a\0b", "\x1b[31m=1+1", "'; --")
ODD_VALUES: tuple[Any, ...] = (None, -1, 0, 1e999, "no", "1e-3", [], {}, True, 10**30, "\u202e", "../x.png")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_sdxl()


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


def mutate_document(draw: random.Random, document: dict[str, Any]) -> None:
    """Change, drop or misspell one key somewhere in a manifest."""
    places: list[dict[str, Any]] = [document, document["defaults"], *document["cases"]]
    places += [variant for case in document["cases"] for variant in case["variants"]]
    place = draw.choice([each for each in places if each])
    key = draw.choice(list(place))
    match draw.randrange(3):
        case 0:
            place[key] = draw.choice(ODD_VALUES)
        case 1:
            del place[key]
        case _:
            place[key[:-1]] = place.pop(key)


def mutate_bytes(draw: random.Random, path: Path) -> None:
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


def write_work(draw: random.Random, folder: Path) -> Path:
    """A manifest with its pictures, half of the time with a fault somewhere."""
    cases = [draw_case(draw, folder, f"case{number}") for number in range(draw.randrange(1, 3))]
    way = draw.choice(("alongside", "warm", "cold"))
    defaults = {"steps": 2, "strength": 1.0, "guidance": 2.0, "way": way, "dense": draw.random() < 0.3}
    document = {"version": 1, "defaults": defaults | ({"coarse": 2} if way == "cold" else {}), "cases": cases}
    fault = draw.choice(("none", "none", "document", "text", "picture"))
    if fault == "document":
        mutate_document(draw, document)
    manifest = folder / "manifest.yaml"
    manifest.write_text(json.dumps(document), encoding="utf-8")
    if fault == "text":
        mutate_bytes(draw, manifest)
    if fault == "picture":
        mutate_bytes(draw, draw.choice(sorted(folder.glob("case*"))))
    return manifest


def check(seed: int, folder: Path, shown: Callable[[], Any]) -> int:
    """Run what a seed stands for and check what it left; the exit code."""
    draw = random.Random(seed)
    manifest = write_work(draw, folder)
    before = set(folder.rglob("*"))
    form = draw.choice(("table", "json", "csv", "md"))
    code = cli.run(("edit", str(manifest), "-m", "tiny/tiny", "-o", str(folder / "run"), "--output-format", form))
    said = shown()
    assert code in (0, 1, 2), (seed, said.err)
    assert "Traceback" not in said.err, seed
    assert "defect" not in said.err, (seed, said.err)
    assert "\x1b" not in said.out + said.err, seed
    assert not list(folder.rglob("*.tmp")), seed
    if code == 2:
        assert said.err.splitlines()[-1:] != [], seed
        assert set(folder.rglob("*")) == before, (seed, said.err)
    else:
        records = read_records(folder / "run" / "records.jsonl")
        assert all(record["status"] == "ok" for record in records) == (code == 0), seed
        assert (folder / "run" / "report.html").stat().st_size > 1000, seed
        for picture in (folder / "run").rglob("*.png"):
            Image.open(picture).load()
    return code


def fuzz(
    seeds: range, folder: Path, pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, shown: Callable[[], Any]
) -> None:
    monkeypatch.setattr("sparsedit.models.loading.load_pipeline", lambda *_, **__: pipe)
    codes = set()
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        codes.add(check(seed, place, shown))
    assert {0, 2} <= codes  # sound work among them, and damaged


def test_any_work_ends_in_whole_files_or_in_a_sentence(
    tmp_path: Path, pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz(SHORT, tmp_path, pipe, monkeypatch, capsys.readouterr)


@pytest.mark.slow
def test_a_thousand_works_end_in_whole_files_or_in_a_sentence(
    tmp_path: Path, pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz(LONG, tmp_path, pipe, monkeypatch, capsys.readouterr)
