"""The command line: what it prints where, its exit codes, and that bad input gets a sentence and leaves no trace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from sparsedit import cli
from sparsedit.commands import options
from sparsedit.errors import ModelError
from sparsedit.records import Record, append_record
from sparsedit.settings import Settings
from tests.sample_records import failed, record

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "jinja2"}

Run = Callable[..., SimpleNamespace]


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`sparsedit ARGUMENTS` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`sparsedit ARGUMENTS` in this process: code, stdout and stderr."""

    def run(*arguments: str) -> SimpleNamespace:
        capfd.readouterr()
        code = cli.run(arguments)
        output = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=output.out, stderr=output.err)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with pictures of 64x64, a manifest of two cases, and files that are wrong in many ways."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    draw_pictures(tmp_path)
    original = (tmp_path / "original.png").read_bytes()
    Image.new("RGB", (64, 32)).save("small.png")
    Image.new("L", (32, 32)).save("small-mask.png")
    Image.new("RGB", (64, 64), "red").save("coloured-mask.png")
    Path("empty.png").touch()
    Path("text.png").write_text("no picture", encoding="utf-8")
    Path("truncated.png").write_bytes(original[: len(original) // 2])
    os.mkfifo("pipe.png")
    Path("folder.png").mkdir()
    Path("occupied").mkdir()
    Path("occupied/mine.txt").write_text("mine", encoding="utf-8")
    write_manifest(tmp_path / "cases.yaml")
    write_manifest(tmp_path / "typo.yaml", stpes=3)
    write_manifest(tmp_path / "mixed.yaml", second={"dtype": "bfloat16"})
    Path("config.yaml").write_text("steps: 5\nseed: 3\nmodel: demo\n", encoding="utf-8")
    Path("typo-config.yaml").write_text("sede: 3\n", encoding="utf-8")
    return tmp_path


def draw_pictures(folder: Path) -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    picture.save(folder / "original.png")
    edited = picture.copy()
    ImageDraw.Draw(edited).rectangle((24, 24, 30, 30), fill=(220, 30, 30))
    edited.save(folder / "edited.png")
    Image.new("RGB", (64, 64), (10, 200, 10)).save(folder / "other.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((20, 20, 30, 30), fill=255)
    mask.save(folder / "mask.png")


def write_manifest(path: Path, second: dict[str, Any] | None = None, **defaults: Any) -> None:
    variants = [{"id": "box", "edited": "edited.png"}, {"id": "hole", "mask": "mask.png", "task": "inpaint"}]
    cases = [{"id": name, "original": "original.png", "variants": variants} for name in ("one", "two")]
    content = {"version": 1, "defaults": defaults, "cases": [cases[0], cases[1] | (second or {})]}
    path.write_text(json.dumps(content), encoding="utf-8")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# Help


@pytest.mark.parametrize(
    "arguments", [["--help"], ["edit", "--help"], ["bench", "--help"], ["models", "list", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from sparsedit.cli import run; code = run(sys.argv[1:]);"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout


def test_listing_models_imports_no_torch() -> None:
    code = "import sys; from sparsedit.cli import run; run(['models', 'list']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_nothing_asked_shows_the_commands(run: Run) -> None:
    shown = run()
    assert shown.returncode == 2
    assert "Commands" in shown.stdout


@pytest.mark.parametrize("name", ["task", "way", "context", "policy", "dtype", "weights"])
def test_help_names_the_choices_that_settings_take(name: str) -> None:
    annotation = Settings.model_fields[name].annotation
    [option] = getattr(options, name.capitalize()).__metadata__
    choices = [choice for kind in (annotation, *get_args(annotation)) for choice in get_args(kind)]
    assert option.metavar == "|".join(choice for choice in choices if isinstance(choice, str))


# Bad input

EDIT = ["edit", "original.png", "--edited", "edited.png"]
BAD = {
    "no such command": (["edti"], r"No such command 'edti'"),
    "no such option": ([*EDIT, "--edtied", "x"], r"No such option: --edtied.*--edited"),
    "no input": (["edit"], r"Missing argument 'INPUT'"),
    "not a number": ([*EDIT, "--steps", "many"], r"'--steps'.*integer"),
    "no such format": ([*EDIT, "--output-format", "xml"], r"'xml' is not one of 'table', 'json', 'csv', 'md'"),
    "no such task": ([*EDIT, "--task", "outpaint"], r"task: must be 'sdedit', 'inpaint', .* or 'pan', not 'outpaint'"),
    "no such way": ([*EDIT, "--way", "hot"], r"way: must be 'alongside', 'warm' or 'cold', not 'hot'"),
    "no such device": ([*EDIT, "--device", "tpu"], r"device: must be 'auto', 'cpu', .*not 'tpu'"),
    "out of range": ([*EDIT, "--strength", "1.5"], r"strength: must be at most 1, not 1.5"),
    "not finite": ([*EDIT, "--guidance", "nan"], r"guidance: must be a finite number"),
    "no step": (
        [*EDIT, "--steps", "3", "--strength", "0.3"],
        r"no step would run with steps 3 .* strength of at least 0.334",
    ),
    "unknown model": ([*EDIT, "-m", "dmeo"], r"unknown model 'dmeo'.*demo, .*sdxl.*did you mean 'demo'\?"),
    "model without preset": ([*EDIT, "-m", "a/b"], r"no preset, so steps, strength and guidance must be given"),
    "missing picture": (["edit", "gone.png", "--edited", "edited.png"], r"gone\.png does not exist"),
    "missing edited picture": (["edit", "original.png", "--edited", "gone.png"], r"gone\.png does not exist"),
    "empty picture": (["edit", "original.png", "--edited", "empty.png"], r"empty\.png is empty"),
    "a folder": (["edit", "folder.png", "--edited", "edited.png"], r"folder\.png is a folder"),
    "a pipe": (["edit", "pipe.png", "--edited", "edited.png"], r"pipe\.png is a pipe"),
    "nothing to change": (["edit", "original.png"], r"give --edited IMG, --mask IMG or both"),
    "no mask": ([*EDIT, "--task", "inpaint"], r"inpaint needs a mask"),
    "not UTF-8, prompt": ([*EDIT, "--prompt", "a \udcff"], r"prompt.*UTF-8"),
    "not UTF-8, edit-prompt": ([*EDIT, "--edit-prompt", "a \udcff"], r"edit-prompt.*UTF-8"),
    "not UTF-8, negative-prompt": ([*EDIT, "--negative-prompt", "a \udcff"], r"negative-prompt.*UTF-8"),
    "missing manifest": (["edit", "gone.yaml"], r"gone\.yaml does not exist"),
    "unknown key": (["edit", "typo.yaml"], r"defaults\.stpes \(line \d+\): unknown key; did you mean 'steps'\?"),
    "manifest and picture": (["edit", "cases.yaml", "--mask", "mask.png"], r"--mask cannot be given here"),
    "picture and data": ([*EDIT, "--data", "."], r"--data cannot be given here.*goes with a manifest"),
    "two dtypes": (["edit", "mixed.yaml"], r"dtype must be the same in all cases of a run, not auto, bfloat16"),
    "unknown key in the configuration": ([*EDIT, "--config", "typo-config.yaml"], r"sede .*did you mean 'seed'\?"),
    "missing configuration": ([*EDIT, "--config", "gone.yaml"], r"gone\.yaml does not exist"),
    "a folder of others": ([*EDIT, "-o", "occupied"], r"occupied is not empty and not a run's folder"),
    "a file as folder": ([*EDIT, "-o", "mask.png"], r"mask\.png is a file"),
    "no run": (["report", "occupied"], r"occupied is not a run's folder"),
    "no such model to show": (["models", "show", "sdlx"], r"did you mean 'sdxl'\?"),
    "escapes in a name": (["edit", "\x1b[31m.png", "--edited", "edited.png"], r"error: \\x1b\[31m\.png does not"),
}
BAD_PICTURES = {
    "not a picture": (["edit", "original.png", "--edited", "text.png"], r"text\.png is not a PNG"),
    "truncated": (["edit", "truncated.png", "--edited", "edited.png"], r"truncated\.png cannot be decoded"),
    "sizes differ": (["edit", "original.png", "--edited", "small.png"], r"small\.png is 64x32.*64x64"),
    "mask of another size": ([*EDIT, "--mask", "small-mask.png"], r"small-mask\.png is 32x32.*64x64"),
    "mask with colours": ([*EDIT, "--mask", "coloured-mask.png"], r"has colours"),
}


@pytest.mark.parametrize(("arguments", "sentence"), (BAD | BAD_PICTURES).values(), ids=(BAD | BAD_PICTURES).keys())
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    here: Path, run: Run, arguments: list[str], sentence: str
) -> None:
    before = files(here)
    shown = run(*arguments)
    assert shown.returncode == 2
    assert shown.stdout == ""
    errors = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert shown.stderr.endswith(errors[0] + "\n")
    assert re.search(sentence, errors[0])
    assert "Traceback" not in shown.stderr
    assert files(here) == before


@pytest.mark.parametrize("name", ["no such option", "unknown model", "a pipe", "unknown key"])
def test_the_process_ends_with_the_exit_code(here: Path, name: str) -> None:
    arguments, sentence = BAD[name]
    done = process(*arguments, cwd=here)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert re.search(sentence, done.stderr)


@pytest.mark.parametrize("module", ["sparsedit", "sparsedit.cli"])
def test_modules_are_the_command_line_too(module: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, "edit", "missing.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing.yaml" in done.stderr


def test_debug_adds_the_traceback(here: Path, run: Run) -> None:
    shown = run(*EDIT, "--mask", "small-mask.png", "--debug")
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("error: ")


def test_every_fault_of_a_manifest_is_told(here: Path, run: Run) -> None:
    write_manifest(here / "typo.yaml", stpes=3, strength=7, second={"original": "gone.png"})
    shown = run("edit", "typo.yaml")
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: typo.yaml has 3 errors:\n")


# Planning


def test_a_dry_run_shows_the_plan_and_loads_nothing(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a dry run loads no model")

    for module in ("engines.pipelines", "models.loading"):  # this order: the first imports from the second
        monkeypatch.setattr(f"sparsedit.{module}.load_pipeline", loaded)
    before = files(here)
    shown = run("edit", "cases.yaml", "--dry-run", "--steps", "20", "--strength", "0.7")
    assert shown.returncode == 0
    assert files(here) == before
    for text in ("one/box", "two/hole", "inpaint", "64x64", "14 of 20", "2.95%"):
        assert text in shown.stdout
    assert "14 of 20 steps at strength 0.7 (2 edits)" in shown.stderr


def test_a_plan_is_also_data(here: Path, run: Run) -> None:
    plan = json.loads(run("edit", "cases.yaml", "--dry-run", "--output-format", "json").stdout)["plan"]
    assert [(entry["case"], entry["variant"], entry["steps_run"]) for entry in plan] == [
        ("one", "box", 14),
        ("one", "hole", 14),
        ("two", "box", 14),
        ("two", "hole", 14),
    ]
    lines = run("edit", "cases.yaml", "--dry-run", "--output-format", "csv").stdout.splitlines()
    assert (len(lines), lines[0].split(",")[:2]) == (5, ["case", "variant"])
    assert run("edit", "cases.yaml", "--dry-run", "--output-format", "md").stdout.startswith("| case/variant |")


def test_flags_win_over_the_file_and_the_file_over_the_manifest(here: Path, run: Run) -> None:
    write_manifest(here / "cases.yaml", steps=9, seed=9, guidance=9.0)
    shown = run("edit", "cases.yaml", "--config", "config.yaml", "--steps", "7", "--dry-run", "--json", "--quiet")
    settings = json.loads(shown.stdout.splitlines()[-1])["settings"]
    assert (settings["steps"], settings["seed"], settings["guidance"]) == (7, 3, 9.0)
    assert (settings["strength"], settings["threshold"], settings["grow"]) == (0.7, 0.02, 8)
    assert shown.stderr == ""


def test_the_manifest_names_the_model_unless_a_flag_does(here: Path, run: Run) -> None:
    content = yaml.safe_load((here / "cases.yaml").read_text(encoding="utf-8")) | {"model": "sdxl-turbo"}
    (here / "cases.yaml").write_text(json.dumps(content), encoding="utf-8")
    dry = ("edit", "cases.yaml", "--dry-run", "--output-format", "json")
    assert json.loads(run(*dry).stdout)["model"] == "sdxl-turbo"
    assert json.loads(run(*dry, "-m", "sdxl").stdout)["model"] == "sdxl"


# Running, without a model


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[Record | BaseException]:
    """Stands for model and engine: a run gives these records, or is broken off by an exception."""
    results: list[Record | BaseException] = [record("original", "edited")]

    def run_jobs(
        jobs: Any, pipe: Any, model: str, folder: Any, watch: Any, suite: str, refiner: Any
    ) -> Iterator[Record]:
        for result in results:
            if isinstance(result, BaseException):
                raise result
            append_record(folder.records, result)
            watch.finished(result)
            yield result

    place = torch.device("cpu")
    named = {"_name_or_path": "models/snapshots/abc"}
    pipe = SimpleNamespace(config=named, device=place, _execution_device=place, dtype="torch.float32")
    monkeypatch.setattr("sparsedit.models.loading.load_pipeline", lambda *_, **__: pipe)
    monkeypatch.setattr("sparsedit.pixels.stages_of", lambda _: SimpleNamespace(scale=8))
    monkeypatch.setattr("sparsedit.engines.local.run_jobs", run_jobs)
    return results


def test_a_run_puts_the_result_on_stdout_and_the_rest_on_stderr(here: Path, run: Run, engine: list[Any]) -> None:
    shown = run(*EDIT, "-o", "out")
    assert shown.returncode == 0
    assert "8.00×" in shown.stdout
    assert "out/report.html" not in shown.stdout
    assert "14 of 20 steps at strength 0.7 (1 edit)" in shown.stderr
    assert "report:   out/report.html" in shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_a_run_leaves_its_folder(here: Path, run: Run, engine: list[Any]) -> None:
    run(*EDIT, "-o", "out")
    assert {path.name for path in Path("out").iterdir()} == {
        "config.yaml",
        "environment.json",
        "records.jsonl",
        "report.html",
    }
    config = yaml.safe_load(Path("out/config.yaml").read_text(encoding="utf-8"))
    assert config["settings"]["steps"] == 20
    assert config["jobs"] == [{"case": "original", "variants": ["edited"]}]
    facts = json.loads(Path("out/environment.json").read_text(encoding="utf-8"))
    assert (facts["model"], facts["model_revision"], facts["dtype"]) == ("demo", "abc", "float32")


def test_results_go_to_runs_when_nobody_says(here: Path, run: Run, engine: list[Any]) -> None:
    run("edit", "cases.yaml")
    [folder] = Path("runs").iterdir()
    assert folder.name.startswith("cases-2")


def test_failed_cases_are_counted_in_the_exit_code(here: Path, run: Run, engine: list[Any]) -> None:
    engine.append(failed("both sides must be multiples of 8", variant="odd"))
    shown = run(*EDIT, "-o", "out")
    assert shown.returncode == 1
    assert "meadow/odd failed: both sides must be multiples of 8" in shown.stdout


def test_an_interrupted_run_keeps_what_was_finished(here: Path, run: Run, engine: list[Any]) -> None:
    engine.append(KeyboardInterrupt())
    shown = run("edit", "cases.yaml", "-o", "out")
    assert (shown.returncode, shown.stdout) == (130, "")
    assert "interrupted: 1 of 4 edits are kept; sparsedit report out shows them" in shown.stderr
    assert run("report", "out").returncode == 0


def test_a_defect_is_called_one(here: Path, run: Run, engine: list[Any]) -> None:
    engine.append(ZeroDivisionError("oh"))
    shown = run(*EDIT, "-o", "out")
    assert shown.returncode == 1
    assert "error: ZeroDivisionError: oh (this is a defect of sparsedit" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert "Traceback" in run(*EDIT, "-o", "out", "--overwrite", "--debug").stderr


def test_a_model_that_cannot_be_loaded_leaves_nothing(
    here: Path, run: Run, engine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("no such weights")

    monkeypatch.setattr("sparsedit.models.loading.load_pipeline", refuse)
    before = files(here)
    shown = run(*EDIT)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert files(here) == before


def test_an_earlier_run_is_replaced_only_when_asked(here: Path, run: Run, engine: list[Any]) -> None:
    assert run(*EDIT, "-o", "out").returncode == 0
    again = run(*EDIT, "-o", "out")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert run(*EDIT, "-o", "out", "--overwrite").returncode == 0
    assert len(Path("out/records.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_quiet_says_nothing_but_the_result(here: Path, run: Run, engine: list[Any]) -> None:
    shown = run(*EDIT, "-o", "out", "--quiet")
    assert shown.stderr == ""
    assert "8.00×" in shown.stdout


def test_the_last_line_is_one_json_document(here: Path, run: Run, engine: list[Any]) -> None:
    engine.append(failed(variant="odd"))
    lines = run(*EDIT, "-o", "out", "--json").stdout.splitlines()
    document = json.loads(lines[-1])
    assert "8.00×" in "\n".join(lines[:-1])
    assert (document["schema"], document["run"], document["done"], document["failed"]) == (1, "out", 1, 1)
    assert document["records"] == engine


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_a_run_can_be_shown_again(here: Path, run: Run, engine: list[Any], form: str) -> None:
    first = run(*EDIT, "-o", "out", "--output-format", form)
    page = Path("out/report.html").read_bytes()
    Path("out/report.html").unlink()
    again = run("report", "out", "--output-format", form)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert Path("out/report.html").read_bytes() == page
    if form == "json":
        assert json.loads(again.stdout)["records"] == engine


def test_a_report_needs_no_environment_but_not_a_broken_one(here: Path, run: Run, engine: list[Any]) -> None:
    run(*EDIT, "-o", "out")
    Path("out/environment.json").write_text("{", encoding="utf-8")
    assert run("report", "out").returncode == 2
    Path("out/environment.json").unlink()
    assert run("report", "out").returncode == 0


# Other commands


def test_models_are_listed_and_described(run: Run) -> None:
    assert "sdxl-turbo" in run("models").stdout
    assert run("models", "list").stdout == run("models").stdout
    listed = json.loads(run("models", "list", "--json").stdout.splitlines()[-1])["models"]
    shown = run("models", "show", "sdxl")
    for fact in ("sparsedit models pull sdxl", "462165984030d82259a11f4367a4eed129e94a7b", "canny-small", "6.9 GB"):
        assert fact in " ".join(shown.stdout.split())
    described = json.loads(run("models", "show", "demo", "--json").stdout.splitlines()[-1])
    memory = described.pop("memory")
    assert described.pop("missing") is None
    assert described in listed
    assert described["defaults"]["steps"] == 20
    assert memory["peak_bytes"] == sum(memory["weight_bytes"].values()) + max(memory["call_bytes"].values())


def test_env_describes_the_machine(run: Run) -> None:
    shown = run("env", "--json")
    facts = json.loads(shown.stdout.splitlines()[-1])
    assert facts["packages"]["torch"] in shown.stdout
    assert f"{facts['processor']['cores']} cores" in shown.stdout


# The real thing


def test_an_edit_on_the_demo_model(here: Path, run: Run) -> None:
    """From pictures to report: an edit, one so large that it runs dense, and one that changes nothing."""
    edits = ("--edited", "edited.png", "--edited", "other.png", "--edited", "original.png")
    done = run("edit", "original.png", *edits, "--steps", "2", "--strength", "1", "--json")
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.splitlines()
    assert max(map(len, table)) <= 80
    assert "2 of 2 steps at strength 1 (3 edits)" in done.stderr
    document = json.loads(line)
    records = {entry["variant"]: entry for entry in document["records"]}
    assert [entry["way"] for entry in records.values()] == ["alongside", "dense", "none"]
    assert "ran dense" in records["other"]["reason"]
    assert "the original is returned" in records["original"]["reason"]
    folder = here / document["run"]
    for name in ("original", "edited", "mask", "sparse", "dense", "heat"):
        assert (folder / "images" / "original" / "edited" / f"{name}.png").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
