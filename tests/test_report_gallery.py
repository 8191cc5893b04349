"""Pictures on a terminal, and `sparsedit report` in its formats."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from sparsedit.cli import run
from sparsedit.records import append_record
from sparsedit.report.gallery import gallery, half_blocks
from sparsedit.report.page import PICTURES
from tests.sample_records import record


@pytest.fixture
def a_run(tmp_path: Path) -> Path:
    place = tmp_path / "images" / "meadow" / "house"
    place.mkdir(parents=True)
    for name in PICTURES:
        Image.new("RGB", (32, 16), "orange").save(place / f"{name}.png")
    append_record(tmp_path / "records.jsonl", record())
    return tmp_path


def test_a_half_block_holds_two_pixels() -> None:
    pixels = np.zeros((4, 2, 3), dtype=np.uint8)
    pixels[0], pixels[1] = (255, 0, 0), (0, 0, 255)
    first, second = half_blocks(Image.fromarray(pixels), 2)
    style = first.spans[0].style
    assert (first.plain, str(style)) == ("▀▀", "#ff0000 on #0000ff")
    assert str(second.spans[0].style) == "#000000 on #000000"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_gallery_fits_the_terminal(a_run: Path, width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width).print(gallery(a_run, [record(), record(variant="without pictures")], width))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "meadow/house"
    assert max(map(cell_len, lines)) <= width
    assert [name for name in ("original", "edited", "dense", "sparse") if name in lines[-2]]


def test_a_gallery_needs_colours(a_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(a_run), "--gallery"]) == 0
    said = capsys.readouterr()
    assert "▀" not in said.out
    assert "needs a terminal with colours" in said.err


def test_a_run_in_every_format(a_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for form in ("table", "json", "csv", "md", "latex", "html"):
        assert run(["report", str(a_run), "--output-format", form, "--quiet"]) == 0
        texts[form] = capsys.readouterr().out
    assert json.loads(texts["json"])["records"][0]["case"] == "meadow"
    assert all("meadow/house" in texts[form] for form in ("table", "md", "latex", "html"))
    assert r"8.00$\to$1.00" in texts["latex"]
    assert texts["html"] == (a_run / "report.html").read_text(encoding="utf-8")


def test_pictures_are_embedded_when_asked(a_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag, inside in (("--embed", len(PICTURES)), ("--no-embed", 0)):
        assert run(["report", str(a_run), flag]) == 0
        assert (a_run / "report.html").read_text(encoding="utf-8").count('src="data:') == inside
