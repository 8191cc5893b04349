"""What a run writes, and where it cannot: one writer to a folder, disks that are full, readers that leave, secrets."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsedit.cache.tensors import TEMPORARY, open_tensors, write_tensors
from sparsedit.discretion import discreet, without_secrets
from sparsedit.errors import CacheError, InputError
from sparsedit.files import write_atomic
from sparsedit.images import save_image
from sparsedit.records import append_record, read_records
from sparsedit.report.page import write_page
from sparsedit.report.summary import summarise
from sparsedit.report.text import latex_text, summary_latex
from sparsedit.runs import RunFolder
from tests.sample_records import ENVIRONMENT, failed, record

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
IMAGE = Image.linear_gradient("L").convert("RGB")


def in_a_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does `work`; negative for the signal that killed it."""
    child = FORK.Process(target=work)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


# One writer


@contextmanager
def another_process(script: str, *arguments: object) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()
            process.wait()


HOLDER = """
import sys, time
from pathlib import Path
from sparsedit.runs import RunFolder
with RunFolder.begun(Path(sys.argv[1]), overwrite=False):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_another_process_writes_to_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with another_process(HOLDER, path):
        append_record(path / "records.jsonl", {"schema": 1})
        with pytest.raises(InputError, match="being written by another process"), RunFolder.begun(path, overwrite=True):
            pass
        assert read_records(path / "records.jsonl") == [{"schema": 1}]
    with RunFolder.begun(path, overwrite=True) as folder:  # the lock went with its process
        assert read_records(folder.records) == []


def test_a_run_is_not_replaced_unasked_also_while_it_is_held(tmp_path: Path) -> None:
    with RunFolder.begun(tmp_path / "run", overwrite=False) as folder:
        with pytest.raises(InputError, match="--overwrite"), RunFolder.begun(folder.path, overwrite=False):
            pass
        assert folder.records.is_file()


# Disks that are full or read-only


def test_a_disk_that_fills_up_leaves_whole_files_and_whole_records(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's: writes fail in the middle all the same."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        written = append_record(tmp_path / "records.jsonl", {"schema": 1, "text": "a" * 1200})
        for write in (
            lambda: append_record(tmp_path / "records.jsonl", written),
            lambda: write_atomic(tmp_path / "report.html", b"x" * 3000),
            lambda: save_image(Image.effect_noise((64, 64), 90), tmp_path / "noise.png"),
        ):
            with pytest.raises(InputError, match="cannot be written"):
                write()
        with pytest.raises(CacheError, match="cannot be written"):
            write_tensors(tmp_path / "step.safetensors", {"x": torch.ones(3000)}, {})

    assert in_a_child(fill) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]
    assert len(read_records(tmp_path / "records.jsonl")) == 1
    append_record(tmp_path / "records.jsonl", {"schema": 1})
    assert len(read_records(tmp_path / "records.jsonl")) == 2


@pytest.mark.parametrize("part", ["run", "images"])
def test_a_place_that_cannot_be_made_is_one_sentence(tmp_path: Path, part: str) -> None:
    """A file where a folder should be stands for a read-only one, which root may write to."""
    if part == "run":
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"cannot be written \(Not a directory\); name another folder"):
            RunFolder.create(tmp_path / "file" / "run", overwrite=False)
    else:
        folder = RunFolder.create(tmp_path / "run", overwrite=False)
        (folder.path / "images").touch()
        with pytest.raises(InputError, match="cannot be made"):
            folder.images("meadow", "house")


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that may be looked into and not written to; for root, who may write anywhere, as somebody else."""
    with tempfile.TemporaryDirectory() as name:
        path, user = Path(name), os.geteuid()
        path.chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield path
        finally:
            os.seteuid(user)
            path.chmod(0o755)


def test_a_read_only_folder_is_one_sentence(read_only: Path) -> None:
    with pytest.raises(InputError, match="Permission denied"):
        RunFolder.create(read_only / "run", overwrite=False)


# kill -9

WRITES = 12


def _write_a_run(path: Path) -> None:
    folder = RunFolder.create(path, overwrite=True)
    folder.write_config({"steps": 20})
    folder.write_environment(ENVIRONMENT)
    records = [record(variant=name) for name in ("a", "b")]
    for each in records:
        save_image(IMAGE, folder.images("meadow", each["variant"]) / "sparse.png")
        append_record(folder.records, each)
    write_page(folder.path, records, ENVIRONMENT)


def test_a_run_killed_at_any_write_leaves_whole_files_and_as_many_records_as_it_finished(tmp_path: Path) -> None:
    counts = set()
    for moment in range(WRITES):
        path = tmp_path / str(moment)

        def work(moment: int = moment, path: Path = path) -> None:
            left = moment

            def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
                def counted(*arguments: Any) -> Any:
                    nonlocal left
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
                    return call(*arguments)

                return counted

            os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
            _write_a_run(path)

        assert in_a_child(work) == -signal.SIGKILL
        for picture in path.rglob("*.png"):
            Image.open(picture).load()
        if (path / "environment.json").exists():
            assert json.loads((path / "environment.json").read_text(encoding="utf-8")) == ENVIRONMENT
        counts.add(len(read_records(path / "records.jsonl")))
        assert not (path / "report.html").exists()
        assert read_records(RunFolder.create(path, overwrite=True).records) == []  # it serves the next run
        assert [each.name for each in path.iterdir()] == ["records.jsonl"]
    assert counts == {0, 1, 2}


# Readers that leave


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SPARSEDIT": f"{sys.executable} {ROOT / 'cli.py'}"}
    return subprocess.run(["bash", "-c", command], env=environment, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("$SPARSEDIT models list | true; exit ${PIPESTATUS[0]}", (0, 1), ""),
        ("$SPARSEDIT models list >&-", (0,), ""),
        ("$SPARSEDIT models list 2>&-", (0,), ""),
        ("$SPARSEDIT edit gone.png --mask gone.png 2>&-", (2,), ""),
        ("$SPARSEDIT models list --json > /dev/full", (1,), "No space left on device"),
    ],
    ids=["a pipe that is shut", "stdout closed", "stderr closed", "an error unheard", "a full disk"],
)
def test_a_result_that_nobody_takes_is_no_traceback(
    tmp_path: Path, command: str, code: tuple[int, ...], said: str
) -> None:
    done = run(command, tmp_path)
    assert done.returncode in code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "defect" not in done.stderr


# Who may read what is written


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_every_kind_of_file_has_the_umasks_permissions(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        _write_a_run(tmp_path / "run")
        write_tensors(tmp_path / "step.safetensors", {"x": torch.ones(3)}, {"n": 1})
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".yaml", ".json", ".jsonl", ".png", ".html", ".safetensors"}
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}
    assert open_tensors(tmp_path / "step.safetensors").about == {"n": 1}
    assert not list(tmp_path.glob(f"*{TEMPORARY}"))


# What they do not tell

TOKEN = "hf_" + "aB3" * 11
TEXT = st.text()


def test_homes_and_keys_are_in_no_file_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "ada"
    monkeypatch.setenv("HOME", str(home))
    reason = f"{home}/models/x cannot be read; https://ada:{TOKEN}@hub/x answered 401 to {TOKEN}"
    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    folder.write_config({"model": f"{home}/models/x", "settings": {"cache": str(home), "loras": [f"{home}/a"]}})
    folder.write_environment(ENVIRONMENT | {"model": f"{home}/models/x"})
    written = [append_record(folder.records, each) for each in (record(), failed(reason, model=f"{home}/models/x"))]
    write_page(folder.path, written, ENVIRONMENT)
    assert read_records(folder.records) == written
    assert written[1]["model"] == "~/models/x"
    for path in folder.path.rglob("*"):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert str(home) not in text
        assert TOKEN not in text
    assert "cache: '~'" in (folder.path / "config.yaml").read_text(encoding="utf-8")


@given(st.recursive(st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(TEXT, each)))
def test_what_holds_no_secrets_stays_as_it_is(value: Any) -> None:
    assert discreet(value) == value
    assert discreet(discreet(value)) == discreet(value)


def test_only_the_home_itself_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    texts = ("/home/ada", "/home/ada/x", "/home/adam/x", "/mnt/home/ada", "'/home/ada/x.png' is empty")
    shown = ("~", "~/x", "/home/adam/x", "/mnt/home/ada", "'~/x.png' is empty")
    assert tuple(map(discreet, texts)) == shown
    monkeypatch.setenv("HOME", "/")
    assert discreet("/etc/x") == "/etc/x"


def test_keys_are_made_unreadable_in_sentences() -> None:
    assert without_secrets(f"with {TOKEN}, not") == "with hf_***, not"
    assert without_secrets("https://ada:secret@hub.org/a") == "https://***@hub.org/a"
    assert without_secrets("https://hub.org/a:b@c") == "https://hub.org/a:b@c"


def test_latex_runs_no_command_of_a_record() -> None:
    hostile = r"\input{/etc/passwd} 100% $x$ #1 a_b ~ ^ {} &"
    shown = latex_text(hostile)
    assert "\\input" not in shown
    assert shown.startswith(r"\textbackslash{}input\{/etc/passwd\} 100\% \$x\$ \#1 a\_b")
    text = summary_latex(summarise([record(edit_type=hostile)]))
    assert "\\input" not in text
    [line] = [line for line in text.splitlines() if line.startswith("meadow/house")]
    assert line.replace(r"\&", "").count("&") == 10
