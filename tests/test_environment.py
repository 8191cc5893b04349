"""The description of the machine is complete, JSON, and tells nothing about its owner."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sparsedit import environment as module
from sparsedit.environment import cpu_has_bf16, environment


@pytest.fixture
def cpuinfo(monkeypatch):
    def pretend(text: str) -> None:
        monkeypatch.setattr(module, "_cpuinfo", lambda: text)

    return pretend


def test_is_json_and_names_what_matters():
    found = json.loads(json.dumps(environment(), allow_nan=False))
    assert found["packages"]["torch"]
    assert found["packages"]["diffusers"]
    assert found["python"] == platform.python_version()
    assert found["processor"]["name"]
    assert found["processor"]["cores"] >= 1
    assert found["threads"] >= 1
    assert isinstance(found["gpus"], list)


def test_tells_no_paths_users_or_hosts():
    text = json.dumps(environment())
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[1]) not in text
    assert sys.prefix not in text
    for private in (getpass.getuser(), platform.node()):
        assert f'"{private}"' not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse2\n", True),
        ("flags\t\t: fpu amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx2\n", False),
        ("model name\t: avx512_bf16 in name only\nflags\t: fpu\n", False),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_flags(cpuinfo, text, expected):
    cpuinfo(text)
    assert cpu_has_bf16() is expected


def test_processor_name(cpuinfo):
    cpuinfo("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t: fpu\n")
    assert environment()["processor"]["name"] == "Some CPU @ 3 GHz"
    cpuinfo("")
    assert environment()["processor"]["name"]


def test_packages_that_are_missing_are_none(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    assert environment()["packages"]["no-such-package"] is None


class TestCommit:
    @pytest.fixture
    def checkout(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_ROOT", tmp_path)
        return tmp_path

    def commit(self):
        found = environment()
        return found["commit"], found["dirty"]

    def test_installed_without_a_checkout(self, checkout):
        assert self.commit() == (None, None)

    def test_checkout(self, checkout):
        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
            command = ["git", *identity, *arguments]
            done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
            return done.stdout.strip()

        git("init", "-q")
        assert self.commit() == (None, None)
        (checkout / "file").write_text("a")
        git("add", "file")
        git("commit", "-q", "-m", "first")
        head = git("rev-parse", "HEAD")
        assert self.commit() == (head, False)
        (checkout / "file").write_text("b")
        assert self.commit() == (head, True)

    def test_without_git(self, checkout, monkeypatch):
        (checkout / ".git").mkdir()
        monkeypatch.setenv("PATH", str(checkout))
        assert self.commit() == (None, None)
