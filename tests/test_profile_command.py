"""`sparsedit profile` as its users type it: formats, exit codes, and one sentence for bad input."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedit import cli
from sparsedit.measure.ceilings import Ceilings
from tests.test_cli import draw_pictures, write_manifest

Run = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def _ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ceilings of a machine, which nobody measures here."""
    best = Ceilings("A processor", "float32", 1e12, 1e11, {"a product": 1e12}, 0.0)
    monkeypatch.setattr("sparsedit.profiling.profile.ceilings", lambda *_, **__: (best, []))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`sparsedit profile ARGUMENTS` in this process and a folder of its own: code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> SimpleNamespace:
        capfd.readouterr()
        code = cli.run(["profile", *arguments])
        output = capfd.readouterr()
        return SimpleNamespace(code=code, out=output.out, err=output.err)

    return run


QUICK = ("--size", "64x64", "--steps", "2", "--samples", "1")


def test_the_command_times_the_demo_model(run: Run) -> None:
    shown = run(*QUICK, "--stages", "decoder,text", "--json", "--output-format", "csv", "-o", "out", "--quiet")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    document = json.loads(lines[-1])
    assert [row["stage"] for row in csv.DictReader(lines[:-1])] == ["text", "decoder"]
    assert len(document["profiles"][0]["calls"]["decoder"]["sparse"]["seconds"]) == 1
    assert document == json.loads(Path("out/profile.json").read_text())
    again = run(*QUICK, "-o", "out")
    assert (again.code, again.out) == (2, "")
    assert "profile.json exists" in again.err


def test_a_dry_run_counts_and_loads_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a dry run loads no model")

    for module in ("engines.pipelines", "models.loading"):  # this order: the first imports from the second
        monkeypatch.setattr(f"sparsedit.{module}.load_pipeline", loaded)
    made_up = ("--size", "64x64", "--pattern", "scattered", "--edit-ratio", "0.1")
    shown = run(*made_up, "--dry-run", "--output-format", "json", "--stages", "text,decoder")
    [found] = json.loads(shown.out)["profiles"]
    assert (found["variant"], found["sampling"]) == ("scattered-10%", None)
    assert list(found["calls"]) == ["text", "decoder"]
    assert found["calls"]["decoder"]["sparse"]["macs"] > 0
    assert "seconds" not in found["calls"]["decoder"]["sparse"]


def test_a_dry_run_counts_another_vae_and_a_controlnet(run: Run) -> None:
    counting = ("-m", "sdxl", "--size", "64x64", "--dry-run", "--output-format", "json", "--stages")
    [own] = json.loads(run(*counting, "decoder").out)["profiles"]
    [other] = json.loads(run(*counting, "decoder,controlnet", "--vae", "tiny", "--controlnet", "canny-small").out)[
        "profiles"
    ]
    assert other["calls"]["decoder"]["dense"]["macs"] < own["calls"]["decoder"]["dense"]["macs"] / 10
    assert other["calls"]["controlnet"]["sparse"]["macs"] > 0


def test_a_dry_run_counts_a_refiner(run: Run) -> None:
    counting = ("-m", "sdxl", "--refiner", "sdxl-refiner", "--size", "64x64", "--dry-run")
    shown = run(*counting, "--json")
    assert (shown.code, shown.err) == (0, "")
    [found] = json.loads(shown.out.splitlines()[-1])["profiles"]
    stages = found["edit"]["stages"]
    assert found["refiner"] == "sdxl-refiner"
    assert (stages["unet"]["dense"]["calls"], stages["refiner"]["dense"]["calls"]) == (14, 7)  # of 21
    assert 0 < stages["refiner"]["sparse"]["macs"] < stages["refiner"]["dense"]["macs"]
    table = shown.out.rpartition("one call")[0]
    assert "refiner, 7 calls" in shown.out
    assert not any(heading in table for heading in ("seconds", "of limit", "peak memory"))  # nothing to say in these
    refused = run("--stages", "refiner", "--dry-run")
    assert (refused.code, refused.out) == (2, "")
    assert "no stage 'refiner'; it has text, encoder, unet, decoder; name one with --refiner" in refused.err


def test_a_dry_run_counts_the_steps_of_the_scheduler_asked_for(run: Run) -> None:
    def calls(*more: str) -> int:
        shown = run("-m", "sd15", "--size", "64x64", "--steps", "4", "--dry-run", "--output-format", "json", *more)
        return int(json.loads(shown.out)["profiles"][0]["edit"]["stages"]["unet"]["dense"]["calls"])

    assert calls("--strength", "1") != calls("--strength", "1", "--scheduler", "euler")  # PNDM looks at a step twice


def test_a_picture_and_a_manifest_are_profiled_edit_by_edit(run: Run, tmp_path: Path) -> None:
    draw_pictures(tmp_path)
    write_manifest(tmp_path / "cases.yaml")
    dry = ("--dry-run", "--output-format", "json", "--stages", "encoder")
    [one] = json.loads(run("original.png", "--edited", "edited.png", *dry).out)["profiles"]
    assert (one["case"], one["variant"], one["size"]) == ("original", "edited", [64, 64])
    many = json.loads(run("cases.yaml", *dry).out)["profiles"]
    assert [(each["case"], each["variant"], each["task"]) for each in many] == [
        ("one", "box", "sdedit"), ("one", "hole", "inpaint"), ("two", "box", "sdedit"), ("two", "hole", "inpaint"),
    ]  # fmt: skip
    assert many[0]["calls"]["encoder"]["sparse"] == one["calls"]["encoder"]["sparse"]


BAD = {
    "size in words": (["--size", "large"], "--size must be WIDTHxHEIGHT in pixels, such as 1024x512, not 'large'"),
    "size of nothing": (["--size", "0x64"], "--size must be"),
    "no stage": (["--stages", "unet,vae"], "no stage 'vae'; known: text, encoder, unet, refiner, decoder"),
    "stage the pipeline lacks": (["--stages", "controlnet", "--size", "64x64", "--dry-run"], "no stage 'controlnet'"),
    "ratio": (["--edit-ratio", "2"], "--edit-ratio must be more than 0 and at most 1, not 2"),
    "pattern": (["--pattern", "scatered"], "--pattern must be contiguous or scattered.*did you mean 'scattered'"),
    "no samples": (["--samples", "0"], "--samples"),
    "mask without picture": (["--mask", "mask.png"], "--mask cannot be given here: there is no INPUT"),
    "size of a picture": (["a.png", "--size", "64x64"], "--size cannot be given here: a.png is what is edited"),
    "picture without an edit": (["a.png"], "give --edited IMG, --mask IMG or both"),
    "unknown model": (["-m", "dmeo"], "did you mean 'demo'"),
    "model without a preset": (["-m", "a/b"], "a/b has no preset, so --steps"),
    "no step": (["--steps", "2", "--strength", "0.3"], "no step would run with steps 2"),
    "published and made up": (["--published", "--size", "64x64"], "--size cannot be given here: --published"),
    "published of another": (["--published", "-m", "demo"], "no published table has a row for model 'demo'"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence(run: Run, arguments: list[str], sentence: str) -> None:
    shown = run(*arguments)
    assert (shown.code, shown.out) == (2, "")
    [line] = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert re.search(sentence, line)
    assert list(Path().iterdir()) == []


def test_published_figures_without_a_count_of_ours_cost_nothing(run: Run) -> None:
    shown = run("--published", "-m", "sd21")
    assert shown.code == 0
    for text in ("FISEdit (2023), published", "speedup 4.4; on TITAN RTX", "SD 2.1, dense, unet: 16.0 ms"):
        assert text in shown.out
    assert "sparsedit profile --published --data DIR" in shown.err
    assert max(map(len, shown.out.splitlines())) <= 80


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sparsedit.cli import run; code = run(['profile', '--help']);"
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules)), file=sys.stderr);"
        "sys.exit(code)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
