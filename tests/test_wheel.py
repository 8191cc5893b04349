"""What is handed out: a wheel of the package and its data and nothing else, which runs where no checkout is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from sparsedit import __version__
from sparsedit.records import read_records
from tests.test_cli import draw_pictures

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def build(kind: str, source: Path, to: Path) -> Path:
    """A wheel or an sdist of the checkout, or of an unpacked sdist, in the folder `to`."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(to)]
    subprocess.run(hatchling, cwd=source, check=True, capture_output=True)
    [made] = to.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone; what it depends on is lent by the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", str(wheel)]
    without_compiler = os.environ | {"CC": "false", "CXX": "false"}
    subprocess.run(pip, check=True, capture_output=True, env=without_compiler)
    # A line of a .pth file is one folder: links to checkouts in it, as of editable installations, are not followed.
    [packages] = (folder / "lib").glob("python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder


def run(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(installed / "bin" / "sparsedit"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"sparsedit", f"sparsedit-{__version__}.dist-info"}
    ends = {Path(name).suffix for name in names if name.startswith("sparsedit/")}
    assert not ends & {".so", ".c", ".cpp", ".pyc", ".bin", ".ckpt", ".pt"}
    for needed in ("sparsedit/report/", "sparsedit/published_tables/", "sparsedit/models/demo/", "licenses/LICENSE"):
        assert any(needed in name for name in names), needed


def test_a_wheel_of_the_sdist_is_the_wheel_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as sources:
        assert all(member.isfile() or member.isdir() for member in sources.getmembers())
        assert not [name for name in sources.getnames() if "/training/work/" in name or "/runs/" in name]
        sources.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path / "again")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_it_runs_where_no_checkout_is(installed: Path, tmp_path: Path) -> None:
    draw_pictures(tmp_path)
    assert "Usage" in run(installed, "--help", cwd=tmp_path).stdout
    facts = run(installed, "env", cwd=tmp_path)
    assert (facts.returncode, "torch" in facts.stdout) == (0, True)
    edit = ("edit", "original.png", "--edited", "edited.png", "--steps", "2", "-o", "out")
    done = run(installed, *edit, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [record] = read_records(tmp_path / "out" / "records.jsonl")
    assert (record["status"], record["model"]) == ("ok", "demo")
    where = [str(installed / "bin" / "python"), "-c", "import sparsedit; print(sparsedit.__file__)"]
    assert str(installed) in subprocess.run(where, cwd=tmp_path, capture_output=True, text=True).stdout
