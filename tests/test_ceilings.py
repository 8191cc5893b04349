"""The machine's ceilings: what counts as sustained, and that they are measured once, kept whole, and mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsedit.folders import cache_folder
from sparsedit.measure import ceilings as module
from sparsedit.measure.ceilings import Ceilings, ceilings, kept_ceilings, measure_ceilings, sustained
from sparsedit.measure.macs import count_macs

CPU = torch.device("cpu")


class Machine:
    """Stands for the measurement and counts how often it is made."""

    def __init__(self) -> None:
        self.measured = 0

    def __call__(self, device: torch.device, dtype: torch.dtype, load: float | None) -> Ceilings:
        self.measured += 1
        return Ceilings("a machine", str(dtype).removeprefix("torch."), 1e11 * self.measured, 2e10, {"a": 1e11}, load)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(module, "measure_ceilings", found)
    return found


def kept(folder: Path) -> Path:
    [path] = (folder / "ceilings").iterdir()
    return path


def test_sustained_is_the_best_of_the_windows_and_not_the_first_run() -> None:
    now = 0.0
    seconds = iter([5.0, 0.125, *[0.125] * 3, *[0.05] * 3, *[0.2] * 3])

    def run() -> None:
        nonlocal now
        now += next(seconds)

    # Once to warm up, once to see how often it fits a window of 0.3 s, then three windows of three.
    assert sustained(run, 10, CPU, now=lambda: now) == pytest.approx(10 / 0.05)
    assert next(seconds, None) is None


def test_what_is_slower_than_a_window_runs_three_times() -> None:
    now, runs = 0.0, 0

    def run() -> None:
        nonlocal now, runs
        now, runs = now + 2, runs + 1

    assert sustained(run, 10, CPU, now=lambda: now) == 5
    assert runs == 3


def test_measured_once_and_then_read(tmp_path: Path, machine: Machine) -> None:
    first, said = ceilings(CPU, torch.float32, folder=tmp_path, load=0.1)
    again, _ = ceilings(CPU, torch.float32, folder=tmp_path, load=0.1)
    assert (machine.measured, said) == (1, [])
    assert again == first
    assert json.loads(kept(tmp_path).read_text())["key"]["torch"] == str(torch.__version__)


def test_what_was_measured_can_be_asked_for_without_measuring(tmp_path: Path, machine: Machine) -> None:
    assert kept_ceilings(CPU, torch.float32, folder=tmp_path) is None
    assert not machine.measured
    assert not list(tmp_path.iterdir())
    found, _ = ceilings(CPU, torch.float32, folder=tmp_path)
    assert kept_ceilings(CPU, torch.float32, folder=tmp_path) == found
    kept(tmp_path).write_text("{", encoding="utf-8")
    assert kept_ceilings(CPU, torch.float32, folder=tmp_path) is None
    assert machine.measured == 1


def test_refresh_measures_again_and_keeps_that(tmp_path: Path, machine: Machine) -> None:
    ceilings(CPU, torch.float32, folder=tmp_path)
    fresh, _ = ceilings(CPU, torch.float32, folder=tmp_path, refresh=True)
    read, _ = ceilings(CPU, torch.float32, folder=tmp_path)
    assert machine.measured == 2
    assert read == fresh
    assert [path.name for path in (tmp_path / "ceilings").iterdir()] == [kept(tmp_path).name]  # nothing half written


def test_each_dtype_and_number_of_threads_has_its_own(tmp_path: Path, machine: Machine) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        ceilings(CPU, dtype, folder=tmp_path)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        ceilings(CPU, torch.float32, folder=tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert machine.measured == 3
    assert len(list((tmp_path / "ceilings").iterdir())) == 3


def edited(**changes: Any) -> Any:
    def edit(text: str) -> str:
        document = json.loads(text)
        return json.dumps(document | {"ceilings": document["ceilings"] | changes})

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace(torch.__version__, "0.1"),
        edited(macs_per_second=0),
        edited(bytes_per_second=float("nan")),
        edited(macs_per_second="fast"),
        edited(unknown=1),
    ],
    ids=["empty", "cut", "list", "schema", "key", "zero", "nan", "text", "field"],
)
def test_a_damaged_file_is_measured_again_and_said(tmp_path: Path, machine: Machine, damage: Any) -> None:
    ceilings(CPU, torch.float32, folder=tmp_path)
    path = kept(tmp_path)
    path.write_text(damage(path.read_text()))
    found, [sentence] = ceilings(CPU, torch.float32, folder=tmp_path)
    assert found.macs_per_second == 2e11
    assert sentence.startswith(f"the ceilings kept in {path} cannot be used (")
    assert sentence.endswith("; they were measured again")
    assert ceilings(CPU, torch.float32, folder=tmp_path) == (found, [])  # mended


def test_a_folder_that_cannot_be_written_is_said_and_done_without(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "ceilings").write_text("a file where the folder should be")
    found, [sentence] = ceilings(CPU, torch.float32, folder=tmp_path)
    assert found.macs_per_second == 1e11
    assert sentence.startswith("the ceilings of this machine could not be kept for the next time")


def test_ceilings_of_a_busy_machine_are_said_to_be_too_low_every_time(tmp_path: Path, machine: Machine) -> None:
    load = 10_000.0
    for _ in range(2):
        _, [sentence] = ceilings(CPU, torch.float32, folder=tmp_path, load=load)
        assert "load 10000.0" in sentence
        assert "--refresh-ceilings" in sentence
    assert machine.measured == 1


def test_the_real_measurement_is_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 0.0)
    monkeypatch.setattr(module, "_copy", lambda device: (lambda: torch.ones(1000), 8000.0))
    shapes = {"linear 64x64x64": (lambda: torch.ones(64, 64) @ torch.ones(64, 64), 64.0**3)}
    monkeypatch.setattr(module, "_products", lambda device, dtype: shapes)
    found = measure_ceilings(CPU, torch.float32, load=0.5)
    assert found.macs_per_second == found.products["linear 64x64x64"] > 0
    assert found.bytes_per_second > 0
    assert (found.dtype, found.load) == ("float32", 0.5)


def test_products_count_what_they_multiply() -> None:
    for run, macs in module._products(torch.device("meta"), torch.bfloat16).values():
        with count_macs() as count:
            run()
        assert count.macs == macs


@pytest.mark.parametrize(
    ("variables", "system", "folder"),
    [
        ({"SPARSEDIT_CACHE": "/own"}, "linux", Path("/own")),
        ({"SPARSEDIT_CACHE": "~/own"}, "darwin", Path.home() / "own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "linux", Path("/xdg/sparsedit")),
        ({"XDG_CACHE_HOME": "relative"}, "linux", Path.home() / ".cache/sparsedit"),
        ({}, "linux", Path.home() / ".cache/sparsedit"),
        ({"XDG_CACHE_HOME": "/xdg"}, "darwin", Path.home() / "Library/Caches/sparsedit"),
        ({"LOCALAPPDATA": "/local"}, "win32", Path("/local/sparsedit/Cache")),
    ],
)
def test_the_cache_folder_is_where_the_system_keeps_caches(
    variables: dict[str, str], system: str, folder: Path
) -> None:
    assert cache_folder(variables, system) == folder
