"""ControlNet and refiner from the command line: loaded as they are saved, counted and recorded as stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageDraw

from sparsedit import cli
from sparsedit.models.loading import load_pipeline, load_refiner
from sparsedit.records import Record, read_records
from tests.pipelines import tiny_refiner, tiny_sdxl

EDIT = ("--steps", "4", "--strength", "0.5", "--prompt", "a meadow", "--quiet", "--vae-margin", "0")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture = Image.linear_gradient("L").resize((128, 64)).convert("RGB")
    picture.save("original.png")
    ImageDraw.Draw(picture).rectangle((30, 20, 39, 29), "red")
    picture.save("edited.png")
    return tmp_path


def edit(*arguments: str) -> list[Record]:
    assert cli.run(("edit", "original.png", "--edited", "edited.png", *EDIT, "-o", "run", *arguments)) == 0
    return read_records(Path("run/records.jsonl"))


@pytest.mark.parametrize("way", ["alongside", "warm"])
def test_an_edit_with_a_controlnet(way: str, here: Path) -> None:
    unet: Any = load_pipeline("demo", device="cpu")
    net = ControlNetModel.from_unet(unet.unet)
    torch.nn.init.normal_(net.controlnet_mid_block.weight, std=0.1)
    net.save_pretrained("net")
    (record,) = edit("--controlnet", "./net", "--control-scale", "0.7", "--way", way)
    assert record["status"] == "ok"
    assert record["fidelity"]["outside_equal"]
    assert record["control"]["scale"] == 0.7
    assert 0 < record["control"]["changed_ratio"] < 0.05
    stage = record["stages"]["controlnet"]
    assert stage["dense"]["calls"] == stage["sparse"]["calls"] == 2
    assert stage["sparse"]["macs"] < 0.5 * stage["dense"]["macs"]
    assert stage["sparse"]["seconds"]
    config = json.dumps((here / "run" / "config.yaml").read_text())
    assert "controlnet: ./net" in config


def test_an_edit_with_a_refiner(here: Path) -> None:
    base, refiner = tiny_sdxl(), tiny_refiner()
    base.save_pretrained("base")
    refiner.save_pretrained("finish")
    (record,) = edit("-m", "./base", "--refiner", "./finish", "--steps", "10", "--guidance", "3")
    assert record["status"] == "ok"
    assert [record["stages"][stage]["sparse"]["calls"] for stage in ("unet", "refiner")] == [3, 2]


def test_a_refiner_shares_what_its_base_has(tmp_path: Path) -> None:
    base: Any = tiny_sdxl()
    tiny_refiner().save_pretrained(tmp_path / "finish")
    refiner: Any = load_refiner(str(tmp_path / "finish"), "base", base)
    assert refiner.vae is base.vae
    assert refiner.unet.dtype == base.unet.dtype


@pytest.mark.parametrize(
    ("option", "name", "sentence"),
    [
        ("--controlnet", "cany", "there is no ControlNet 'cany': give canny (with this model)"),
        ("--refiner", "sdxl-refinr", "did you mean 'sdxl-refiner'?"),
    ],
)
def test_unknown_companions(
    option: str, name: str, sentence: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("edit", "original.png", "--edited", "edited.png", *EDIT, "-o", "run", option, name)
    assert cli.run(arguments) == 2
    assert sentence in " ".join(capfd.readouterr().err.split())
    assert not Path("run").exists()


def test_a_dry_run_says_what_memory_it_takes_and_why_in_that_format(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("edit", "original.png", "--edited", "edited.png", "--device", "cpu", "--dry-run", "--json")
    assert cli.run(arguments) == 0
    captured = capfd.readouterr()
    need = json.loads(captured.out.splitlines()[-1])["memory"]
    assert need["missing"] is None
    assert need["peak_bytes"] > need["weight_bytes"] > 10_000_000
    assert 0 < need["cache_bytes"] < need["peak_bytes"]
    assert (need["dtype"], need["dtype_reason"][:13]) == ("float32", "a model small")
    assert "memory: about" in captured.err
    assert (
        cli.run((*arguments, "-m", "someone/unheard-of", "--steps", "4", "--strength", "0.5", "--guidance", "1")) == 0
    )
    assert "memory: not known" in capfd.readouterr().err
