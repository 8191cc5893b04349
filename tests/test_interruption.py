"""A process that is told to stop, by Ctrl-C or a scheduler's SIGTERM, cleans up; told twice, it stops at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsedit.records import read_records
from sparsedit.runs import RunFolder

ROOT = Path(__file__).parents[1]

# The real entry with one more command, which takes its time, and then some more to clean up.
CHILD = """
import sys, time
from sparsedit import cli

seconds_to_clean_up = float(sys.argv[1])

def wait() -> None:
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("cleaning up", flush=True)
        time.sleep(seconds_to_clean_up)
        print("cleaned up", flush=True)

cli.app.command()(wait)
sys.argv = ["sparsedit", "wait"]
cli.main()
"""


@pytest.mark.parametrize(
    ("signals", "cleaned"),
    [([signal.SIGINT], True), ([signal.SIGTERM], True), ([signal.SIGINT, signal.SIGINT], False)],
    ids=["interrupted", "terminated", "interrupted twice"],
)
def test_a_process_that_is_told_to_stop(signals: list[signal.Signals], cleaned: bool) -> None:
    command = [sys.executable, "-c", CHILD, "0" if cleaned else "600"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = []
    for number in signals:
        said.append(process.stdout.readline())
        process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said[0] == "ready\n"
    assert ("cleaned up" in rest) == cleaned
    assert "Traceback" not in errors


def test_a_real_edit_that_is_interrupted_twice_keeps_what_was_finished(tmp_path: Path) -> None:
    case, run = ROOT / "manifests" / "demo", tmp_path / "run"
    edits = [argument for name in ("sun", "roof") for argument in ("--edited", str(case / f"meadow_{name}.png"))]
    command = [sys.executable, "-m", "sparsedit", "edit", str(case / "meadow.png"), *edits, "--way", "warm"]
    process = subprocess.Popen(
        [*command, "--steps", "20", "--strength", "1", "-o", str(run)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    records, deadline = run / "records.jsonl", time.monotonic() + 300
    while not (records.exists() and records.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    # An interpreter that is about to end dies of the second signal, which a shell calls 130 as well.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
    assert [each["variant"] for each in read_records(records)] == ["meadow_sun"]
    with RunFolder.begun(run, overwrite=True):
        pass  # nobody holds it
