"""`edit --cache` across processes, and `cache ls`, `verify` and `rm`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sparsedit import cli
from sparsedit.cache.catalogue import entries, faults
from sparsedit.errors import SettingsError
from sparsedit.records import read_records
from sparsedit.settings import resolve

ROOT = Path(__file__).parents[1]
EDIT = ["edit", "original.png", "--edited", "edited.png", "--steps", "4", "--no-dense", "--quiet"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a picture of 64x64 and an edit of it."""
    monkeypatch.chdir(tmp_path)
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    picture.save("original.png")
    ImageDraw.Draw(picture).rectangle((24, 24, 30, 30), "red")
    picture.save("edited.png")
    return tmp_path


def said(capfd: pytest.CaptureFixture[str]) -> Any:
    """The last line of stdout, as JSON."""
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_a_cache_from_its_first_use_to_its_removal(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for run in ("first", "second"):
        assert cli.run([*EDIT, "--cache", "cache", "-o", run]) == 0
    first, second = (read_records(here / run / "records.jsonl")[0] for run in ("first", "second"))
    assert [first["way"], second["way"]] == ["warm", "warm"]
    assert [first["cache"]["source"], second["cache"]["source"]] == ["recorded", "disk"]
    assert first["total"]["record_s"] > 0
    assert second["total"]["record_s"] is None
    assert second["stages"]["unet"]["record"]["calls"] == 0
    assert second["cache"]["opening_s"] > 0
    same = [(here / run / "images" / "original" / "edited" / "sparse.png").read_bytes() for run in ("first", "second")]
    assert same[0] == same[1]

    assert cli.run(["cache", "ls", "cache", "--json"]) == 0
    listed = said(capfd)
    [entry] = listed["recordings"]
    assert (entry["key"], entry["whole"], entry["size"]) == (first["cache"]["key"], True, [64, 64])
    assert entry["bytes"] == sum(path.stat().st_size for path in (here / "cache" / entry["key"]).iterdir())

    assert cli.run(["cache", "verify", "cache"]) == 0
    step = here / "cache" / entry["key"] / "unet-0001.safetensors"
    data = bytearray(step.read_bytes())
    data[-9] ^= 1
    step.write_bytes(data)
    assert cli.run(["cache", "verify", "cache", entry["key"], "--json"]) == 1
    [verified] = said(capfd)["recordings"]
    assert "unet-0001" in verified["faults"][0]
    assert cli.run([*EDIT, "--cache", "cache", "-o", "third"]) == 0
    [third] = read_records(here / "third" / "records.jsonl")
    assert "unet-0001" in third["reason"]
    assert "1 step was recorded again" in third["reason"]
    assert third["cache"]["source"] == "disk"
    assert third["total"]["record_s"] is None
    assert third["total"]["sparse_s"] > sum(sum(stage["sparse"]["seconds"]) for stage in third["stages"].values())

    assert cli.run(["cache", "rm", "cache"]) == 2
    assert cli.run(["cache", "rm", "cache", "0123456789abcdef"]) == 2
    assert cli.run(["cache", "rm", "cache", entry["key"]]) == 0
    assert cli.run(["cache", "ls", "cache", "--json"]) == 0
    assert said(capfd) == {"recordings": [], "bytes": 0}
    assert cli.run(["cache", "ls", "nowhere"]) == 2


def test_a_cache_means_warm_unless_another_way_is_asked_for(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert resolve({}, {"cache": "c"}).way == "warm"
    assert resolve({}, {"cache_precision": "int8"}).way == "warm"
    assert resolve({}, {}).way == "alongside"
    assert resolve({}, {"way": "alongside", "cache": "c"}).way == "alongside"
    assert cli.run([*EDIT, "--cache", "cache", "--way", "alongside"]) == 2
    assert "a cache keeps recordings for way warm" in capfd.readouterr().err


@pytest.mark.parametrize(("said", "size"), [("8GB", 8 * 10**9), ("1.5 GB", 1_500_000_000), ("20MB", 20 * 10**6)])
def test_a_budget_is_said_with_its_unit(said: str, size: int) -> None:
    assert resolve({}, {"cache_budget": said}).budget_bytes == size


@pytest.mark.parametrize("said", ["8", "8 gigabytes", "-1GB", "GB", "8GiB"])
def test_a_budget_that_is_none(said: str) -> None:
    with pytest.raises(SettingsError, match="cache_budget: must be a number of kB, MB, GB, TB, as in 8GB"):
        resolve({}, {"cache_budget": said})


def test_a_budget_too_small_fails_the_case_with_a_sentence(here: Path) -> None:
    assert cli.run([*EDIT, "--cache-budget", "1MB", "-o", "run"]) == 1
    [record] = read_records(here / "run" / "records.jsonl")
    assert "the budget is 1.00 MB" in record["reason"]
    assert "--cache-precision int8" in record["reason"]


def test_a_dry_run_says_what_is_recorded_and_refuses_what_has_no_room(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    form = ["--cache-rows", "halo", "--cache-precision", "int8", "--record-steps", "3", "--steps", "8"]
    assert cli.run([*EDIT, *form, "--dry-run", "--json"]) == 0
    foreseen = said(capfd)["memory"]["cache_bytes"]
    assert cli.run([*EDIT, *form, "-o", "run"]) == 0
    [record] = read_records(here / "run" / "records.jsonl")
    assert record["cache"]["bytes"] == foreseen
    capfd.readouterr()
    assert cli.run([*EDIT, "--cache-budget", "1MB", "--dry-run"]) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "the budget is 1.00 MB; raise --cache-budget, or make it smaller" in shown.err


@pytest.mark.slow
def test_processes_on_one_cache_and_one_of_them_killed(here: Path) -> None:
    """Two record at once while a third is killed at some moment; what is left is whole, and serves the next."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(run: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "cli.py"), *EDIT, "--cache", "cache", "-o", run]
        return subprocess.Popen(command, env=environment, cwd=here)

    for attempt in range(3):
        killed = start(f"killed-{attempt}")
        while killed.poll() is None and not list(here.glob("cache/*/unet-000*.safetensors")):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    together = [start("a"), start("b")]
    assert [process.wait(timeout=300) for process in together] == [0, 0]
    [entry] = entries(here / "cache")
    assert not faults(entry)
    sources = [read_records(here / run / "records.jsonl")[0]["cache"]["source"] for run in ("a", "b")]
    assert "disk" in sources
