"""What memory a process may take: the machine's, or less by a limit on its groups; and recordings that lack it."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsedit.cache.models import recordable
from sparsedit.cache.size import SizeEstimate
from sparsedit.editor import SparseEditor
from sparsedit.errors import CacheError
from sparsedit.measure import memory as module
from sparsedit.measure.memory import give_back, memory_left, memory_limit, undisturbed
from sparsedit.models.loading import load_pipeline
from sparsedit.models.presets import PRESETS
from sparsedit.models.random import random_pipeline
from sparsedit.sparse import ActivationCache, record
from sparsedit.ways import DECODER_SHARE
from tests.engine import model_of
from tests.families import FAMILIES

ROOT = Path(__file__).parents[1]
MB = 1 << 20
PICTURE = Image.new("RGB", (64, 64), "green")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the system's groups, on a machine with 8 GB left."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:  {8 << 20} kB\n")
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(module, "_CGROUPS", tmp_path / "groups")
    return tmp_path


def group(folder: Path, limit: str, used: int, files: int, *, second: bool = True) -> None:
    """A group's files, as the second version of cgroups has them, or the first."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    statistics = f"anon 5\ninactive_file {files}\n" if second else f"inactive_file 7\ntotal_inactive_file {files}\n"
    (folder / "memory.stat").write_text(statistics)


def test_a_machine_without_limits_has_what_it_says(groups: Path) -> None:
    assert (memory_limit(), memory_left()) == (None, 8 << 30)
    (groups / "own").write_text("0::/\n")
    (groups / "groups").mkdir()
    assert (memory_limit(), memory_left()) == (None, 8 << 30)


@pytest.mark.parametrize("second", [True, False], ids=["version 2", "version 1"])
def test_the_tightest_of_a_groups_limits_counts_and_pages_of_files_do_not(groups: Path, second: bool) -> None:
    root = groups / "groups" if second else groups / "groups" / "memory"
    (groups / "own").write_text("0::/jobs/a\n" if second else "7:pids:/x\n5:cpuset,memory:/jobs/a\n0::/\n")
    unlimited = "max" if second else str((1 << 63) - 4096)
    group(root / "jobs" / "a", unlimited, 3000 * MB, 0, second=second)
    assert (memory_limit(), memory_left()) == (None, 8 << 30)
    group(root / "jobs", str(4000 * MB), 3000 * MB, 500 * MB, second=second)
    assert (memory_limit(), memory_left()) == (4000 * MB, 1500 * MB)
    group(root / "jobs" / "a", str(2000 * MB), 1900 * MB, 0, second=second)
    assert (memory_limit(), memory_left()) == (2000 * MB, 100 * MB)
    group(root / "jobs" / "a", str(20000 * MB), 1900 * MB, 0, second=second)
    group(root / "jobs", str(30000 * MB), 3000 * MB, 0, second=second)
    assert memory_left() == 8 << 30  # the machine has no more


def test_in_a_container_the_root_is_the_containers_own_group(groups: Path) -> None:
    (groups / "own").write_text("4:memory:/docker/0123\n")
    group(groups / "groups" / "memory", str(512 * MB), 500 * MB, 100 * MB, second=False)
    assert (memory_limit(), memory_left()) == (512 * MB, 112 * MB)


def test_more_than_the_limit_is_nothing_left(groups: Path) -> None:
    (groups / "own").write_text("0::/\n")
    group(groups / "groups", str(512 * MB), 600 * MB, 0)
    assert memory_left() == 0


def test_a_system_that_does_not_tell(groups: Path) -> None:
    (groups / "meminfo").unlink()
    assert memory_left() is None


def test_a_recording_is_given_up_early_when_the_others_have_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sparsedit.cache import held

    model, inputs = model_of("sdxl"), FAMILIES["sdxl"].inputs(2, (8, 8), 5)
    cache = held.HeldCache(30)
    with torch.no_grad(), record(model, cache):
        model(**inputs)
        step = cache.steps[0].nbytes
        monkeypatch.setattr(held, "memory_left", lambda: 28 * step)
        model(**inputs)  # 28 to come, and room for them
        model(**inputs)
        monkeypatch.setattr(held, "memory_left", lambda: 26 * step - 1)
        with pytest.raises(CacheError, match=r"a step, 26 are to come, and .* of memory are left; use a smaller"):
            model(**inputs)
    assert not cache.steps
    assert not any("forward" in vars(each) for each in model.modules())


def test_the_last_step_needs_no_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsedit.cache import held

    monkeypatch.setattr(held, "memory_left", lambda: 0)
    model, cache = model_of("sdxl"), held.HeldCache(1)
    with torch.no_grad(), record(model, cache):
        model(**FAMILIES["sdxl"].inputs(2, (8, 8), 5))
    assert isinstance(cache, ActivationCache)
    assert len(cache) == 1


def test_what_is_recorded_afterwards_is_looked_at_until_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsedit.cache import held

    model, inputs = model_of("sdxl"), FAMILIES["sdxl"].inputs(2, (8, 8), 5)
    cache = held.HeldCache(3, later=1000)
    with torch.no_grad(), record(model, cache):
        model(**inputs)
        step = cache.steps[0].nbytes
        monkeypatch.setattr(held, "memory_left", lambda: step + 1000)
        model(**inputs)  # one to come, and the decoder
        monkeypatch.setattr(held, "memory_left", lambda: 999)
        with pytest.raises(CacheError, match=r"a step, 0 are to come, about .* for the decoder, and .* are left"):
            model(**inputs)
    assert not cache.steps


def test_a_recording_stops_before_a_decoder_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsedit.cache import held

    editor = SparseEditor(load_pipeline("demo"))
    recorded = editor.record_request(editor.request(PICTURE, prompt="a meadow", steps=2, strength=1.0))
    sizes = {stage: cache.nbytes for stage, cache in recorded.caches.items()}
    assert sizes["encoder"] < sizes["decoder"] <= DECODER_SHARE * sizes["encoder"]
    later = DECODER_SHARE * sizes["encoder"]
    monkeypatch.setattr(held, "memory_left", lambda: sizes["unet"] // 2 + later)
    editor.record_request(recorded.request)
    monkeypatch.setattr(held, "memory_left", lambda: later - 1)
    with pytest.raises(CacheError, match="for the decoder"):
        editor.record_request(recorded.request)


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_a_decoder_leaves_at_most_twice_what_its_encoder_left(name: str) -> None:
    editor = SparseEditor(random_pipeline(PRESETS[name], torch.float32, device="meta"))
    request = editor.request(PICTURE, prompt="a meadow", steps=2, strength=1.0)
    steps = SizeEstimate(recordable(editor.stages, None, request, None), *PICTURE.size, moments=True).steps
    encoder, decoder = (steps[stage][0].nbytes for stage in ("encoder", "decoder"))
    assert encoder < decoder <= DECODER_SHARE * encoder


@pytest.fixture
def limited() -> Iterator[Path]:
    """The file that a process writes its number to, to be held to 6 GB by this machine's real groups."""
    own = Path("/proc/self/cgroup")
    if not own.exists():
        pytest.skip("only Linux has groups of processes")
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in own.read_text().splitlines()}
    if "memory" in paths:
        root, limit = Path("/sys/fs/cgroup/memory", paths["memory"].lstrip("/")), "memory.limit_in_bytes"
    else:
        root, limit = Path("/sys/fs/cgroup", paths.get("", "/").lstrip("/")), "memory.max"
    folder = root / f"sparsedit-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this user may make no group of processes: {error}")
    try:
        (folder / limit).write_text(str(6 << 30))
        yield folder / "cgroup.procs"
    except OSError as error:
        pytest.skip(f"groups made here limit no memory: {error}")
    finally:
        folder.rmdir()


def test_under_a_real_limit_a_recording_without_room_is_a_record_and_the_run_ends_by_itself(
    tmp_path: Path, limited: Path
) -> None:
    case = ROOT / "manifests" / "demo"
    command = [sys.executable, "-m", "sparsedit", "edit", str(case / "meadow.png")]
    command += ["--edited", str(case / "meadow_sun.png"), "--way", "warm", "--steps", "900", "--strength", "1"]
    enter = f'echo $$ > {limited} && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, "sh", *command, "-o", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    [record] = map(json.loads, (tmp_path / "run" / "records.jsonl").read_text().splitlines())
    assert record["status"] == "failed"
    assert "are to come" in record["reason"]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["memory_limit_bytes"] == 6 << 30


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="a C library that gives nothing back")
def test_free_memory_between_blocks_in_use_goes_back() -> None:
    heap = ctypes.CDLL(None)
    heap.malloc.restype, heap.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [heap.malloc(64 << 10) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(ctypes.c_void_p(block), 1, 64 << 10)
    for number, block in enumerate(blocks):
        if number % 50:
            heap.free(block)
    held = resident()
    give_back()
    assert held - resident() > 100 * MB
    for block in blocks[::50]:
        heap.free(block)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Node:
    """Something that holds itself, so that the collector alone can free it."""

    itself: Node


def test_what_was_there_before_is_kept_from_the_collector_and_given_back() -> None:
    gc.collect()
    with undisturbed():
        assert gc.get_freeze_count() > 1000
        node = Node()
        node.itself = node
        seen = weakref.ref(node)
        del node
        gc.collect()
        assert seen() is None  # what comes later is collected as ever
    assert gc.get_freeze_count() == 0
