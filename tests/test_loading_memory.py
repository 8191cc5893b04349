"""Loading a preset at full size (slow): every weight once in memory, from every real layout and into another dtype."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from sparsedit.models.loading import load_pipeline
from tests.original import original_layout

ROOT = Path(__file__).parents[1]

# Memory of the process alone. Files that are mapped count beside it while they are read, and are the system's to drop.
LOADING = """
import re, sys, threading, torch
from pathlib import Path
import sparsedit.cli
from sparsedit.models.loading import load_pipeline

def held():
    return int(re.search(r"^RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.M)[1]) * 1024

def watch():
    while not done.wait(0.01):
        seen.append(held())

load_pipeline("demo", dtype="bfloat16", device="cpu")  # imports are no weights
start, seen, done = held(), [], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
pipe = load_pipeline(sys.argv[1], dtype=sys.argv[2], device="cpu")
seen.append(held())
done.set()
thread.join()
models = [model for model in pipe.components.values() if isinstance(model, torch.nn.Module)]
size = sum(weight.nbytes for model in models for weight in [*model.parameters(), *model.buffers()])
print((max(seen) - start) / size)
"""


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 1.5 with random weights in fp16, as its users have it: a diffusers folder, and one file."""
    place = tmp_path_factory.mktemp("sd15")
    pipe: Any = load_pipeline("sd15", weights="random", dtype="float16", device="cpu")
    pipe.save_pretrained(place / "folder")
    save_file(original_layout(pipe), place / "sd15.safetensors", metadata={"format": "pt"})
    return place


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's own memory")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["folder", "sd15.safetensors"])
def test_loading_costs_no_second_copy_of_the_weights(layouts: Path, layout: str, dtype: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOADING, str(layouts / layout), dtype]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) <= 1.15
