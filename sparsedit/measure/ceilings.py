"""What a machine can do at best: multiply-adds per second in one dtype, and bytes per second.

A time alone does not say whether it is good; its share of these ceilings does (the roofline model, Williams et al.,
2009). They are measured by torch's own products and copies, once for every machine, version of torch, number of threads
and dtype, and kept in the user's cache folder. They are what was reached, not what the maker promises: a busy machine
makes them too low, and then the shares too high.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sparsedit.environment import processor_name
from sparsedit.errors import InputError
from sparsedit.files import write_atomic
from sparsedit.folders import cache_folder
from sparsedit.measure.clock import Now, synchronise
from sparsedit.measure.warnings import is_busy

SCHEMA = 1
WINDOW = 0.3
"""Seconds that work goes on without a pause before its rate counts as sustained."""


@dataclass(frozen=True)
class Ceilings:
    """Of one device in one dtype. `products` holds the rate of each product tried, the largest being the ceiling;
    `load` the machine's when they were measured."""

    machine: str
    dtype: str
    macs_per_second: float
    bytes_per_second: float
    products: dict[str, float]
    load: float | None = None


def ceilings(
    device: torch.device,
    dtype: torch.dtype,
    *,
    load: float | None = None,
    refresh: bool = False,
    folder: Path | None = None,
) -> tuple[Ceilings, list[str]]:
    """The ceilings of a device, from the cache folder or measured now (some seconds), and what to say about that.

    `load` is the machine's before this program did anything; `refresh` measures again. A file that cannot be used is
    measured again, and one that cannot be written is done without; both are said.
    """
    key = _key(device, dtype)
    path = _place(key, folder)
    said: list[str] = []
    if path.exists() and not refresh:
        try:
            kept = _read(path, key)
            return kept, _too_low(kept)
        except (OSError, ValueError, TypeError, KeyError) as error:
            said.append(f"the ceilings kept in {path} cannot be used ({error}); they were measured again")
    found = measure_ceilings(device, dtype, load)
    document = {"schema": SCHEMA, "key": key, "ceilings": asdict(found)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    except (OSError, InputError) as error:
        said.append(f"the ceilings of this machine could not be kept for the next time: {error}")
    return found, [*said, *_too_low(found)]


def kept_ceilings(device: torch.device, dtype: torch.dtype, *, folder: Path | None = None) -> Ceilings | None:
    """The ceilings that were measured earlier; None where there are none that can be used. Measures nothing."""
    key = _key(device, dtype)
    try:
        return _read(_place(key, folder), key)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, load: float | None = None, now: Now = time.perf_counter
) -> Ceilings:
    """Measure them: the largest sustained rate of several products, and of a copy that no cache holds."""
    with torch.inference_mode():
        products = {name: sustained(run, macs, device, now) for name, (run, macs) in _products(device, dtype).items()}
        copy, moved = _copy(device)
        bandwidth = sustained(copy, moved, device, now)
    key = _key(device, dtype)
    return Ceilings(key["machine"], key["dtype"], max(products.values()), bandwidth, products, load)


def sustained(run: Callable[[], object], work: float, device: torch.device, now: Now = time.perf_counter) -> float:
    """The largest rate, in `work` per second, at which `run` can be repeated for `WINDOW` seconds and longer."""
    run()
    once = _seconds(run, 1, device, now)
    repeats = max(1, math.ceil(WINDOW / once))
    # What is slower than the window is not repeated to no end.
    windows = 3 if once < WINDOW else 1
    return max(work * repeats / _seconds(run, repeats, device, now) for _ in range(windows))


def _place(key: dict[str, str], folder: Path | None) -> Path:
    return (folder or cache_folder()) / "ceilings" / f"{_digest(key)}.json"


def _too_low(found: Ceilings) -> list[str]:
    if not is_busy(found.load, os.cpu_count()):
        return []
    return [
        f"the limits of this machine in {found.dtype} were measured while it was busy (load {found.load:.1f}), so they "
        "are too low and the shares of them too high: --refresh-ceilings measures them again"
    ]


def _seconds(run: Callable[[], object], repeats: int, device: torch.device, now: Now) -> float:
    synchronise(device)
    start = now()
    for _ in range(repeats):
        run()
    synchronise(device)
    return now() - start


def _products(device: torch.device, dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], float]]:
    """Products in the shapes these models are made of, large enough to keep the device busy, with their work."""

    def linear(rows: int, inputs: int, outputs: int) -> tuple[Callable[[], object], float]:
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
        return lambda: F.linear(x, weight), rows * inputs * outputs

    def convolution(side: int, channels: int) -> tuple[Callable[[], object], float]:
        x = torch.randn(1, channels, side, side, device=device, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
        return lambda: F.conv2d(x, weight, padding=1), side * side * 9 * channels**2

    if device.type == "cpu":
        return {
            "linear 2048x2048x2048": linear(2048, 2048, 2048),
            "feed-forward 1024x1280x10240": linear(1024, 1280, 10240),
            "gathered convolution 2048x5760x640": linear(2048, 5760, 640),
            "convolution 64x64, 3x3x320": convolution(64, 320),
        }
    return {
        "linear 8192x8192x8192": linear(8192, 8192, 8192),
        "feed-forward 16384x1280x10240": linear(16384, 1280, 10240),
        "gathered convolution 16384x5760x640": linear(16384, 5760, 640),
        "convolution 256x256, 3x3x320": convolution(256, 320),
    }


def _copy(device: torch.device) -> tuple[Callable[[], object], float]:
    """A copy, which reads every byte and writes it; larger than the caches of processors and GPUs."""
    count = 2**28 if device.type == "cpu" else 2**30
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2.0 * count


def _key(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What ceilings depend on."""
    gpu = device.type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if gpu else processor_name(),
        "device": device.type,
        "capability": str(torch.cuda.get_device_capability(device)) if gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": "" if gpu else str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "dtype": str(dtype).removeprefix("torch."),
    }


def _digest(key: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path, key: dict[str, str]) -> Ceilings:
    document: Any = json.loads(path.read_bytes())
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or document.get("key") != key:
        raise ValueError("it is not a file of this kind")
    found = Ceilings(**document["ceilings"])
    for rate in (found.macs_per_second, found.bytes_per_second):
        if not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"a rate of {rate!r}")
    return found
