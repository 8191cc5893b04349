"""Files of recordings: whole or absent whenever a writer is killed, one writer at a time, and no bit lost unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sparsedit.cache.lock import locked
from sparsedit.cache.tensors import open_tensors, unfinished, write_tensors
from sparsedit.errors import CacheError, DamagedError

ROOT = Path(__file__).parents[1]

WRITER = """
import sys, torch
from pathlib import Path
from sparsedit.cache.tensors import write_tensors
number = int(sys.argv[2])
while True:
    write_tensors(Path(sys.argv[1]), {"a": torch.full((300_000,), float(number))}, {"number": number})
    print("ready", flush=True)
    number += 10
"""
HOLDER = """
import sys, time
from pathlib import Path
from sparsedit.cache.lock import locked
with locked(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(600)
"""


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process running a script, from its first "ready" until it is killed with SIGKILL."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def tensors() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(12.0).view(3, 4), "k": torch.ones(2, 3, dtype=torch.bfloat16), "none": torch.empty(2, 0)}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f", tensors(), {"size": [1, 2]})
    file = open_tensors(tmp_path / "f")
    file.verify()
    file.touch()
    assert file.about == {"size": [1, 2]}
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in tensors().items())
    assert os.listdir(tmp_path) == ["f"]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_tensors(path, tensors(), {"size": [1, 2]})
    intact = path.read_bytes()
    header = 8 + int.from_bytes(intact[:8], "little")
    for place in [*range(header, len(intact)), *range(8, header, 7)]:
        if intact[place : place + 1].isspace():
            continue  # the header is padded with spaces, which say nothing
        damaged = bytearray(intact)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            open_tensors(path).verify()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_found(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "f"
    write_tensors(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError):
        open_tensors(path)


def test_a_missing_file_is_damage_and_a_place_that_cannot_be_written_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="missing"):
        open_tensors(tmp_path / "f")
    with pytest.raises(CacheError, match="cannot be written"):
        write_tensors(tmp_path / "no" / "f", tensors(), {})


def test_writers_that_are_killed_or_write_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    """Two processes write one name over and over; one is killed, then the other, whatever they are doing."""
    path = tmp_path / "f"
    with child(WRITER, path, 1):
        with child(WRITER, path, 2):
            until = time.monotonic() + 1
            while time.monotonic() < until:
                open_tensors(path).verify()
        open_tensors(path).verify()
    file = open_tensors(path)
    file.verify()
    assert (file.tensors["a"] == file.about["number"]).all()
    assert {path.name for path in tmp_path.iterdir()} - {path.name for path in unfinished(tmp_path)} == {"f"}


def test_a_lock_keeps_others_out_and_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "abc"
    message = "abc is being written by another process"
    with child(HOLDER, path), pytest.raises(CacheError, match=message), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass
    with locked(path):
        pass
