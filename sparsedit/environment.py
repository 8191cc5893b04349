"""What a measurement was taken on: versions, processor, GPU, memory.

Goes into every run's folder, so it says nothing about whose machine it is: no paths, no user or host names.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsedit import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pillow",
)
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 (two of them) and Arm
_ROOT = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """Describe this machine and installation as one JSON-ready dictionary.

    Versions that are not installed, and facts the system does not tell, are `None`. `memory_bytes` is all of the
    machine's, `memory_limit_bytes` what a container leaves this process of it, `cores` what it may use, `threads` what
    torch uses.
    """
    import torch

    from sparsedit.measure.memory import memory_limit

    return {
        "sparsedit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        **_commit(),
        "processor": {
            "name": processor_name(),
            "cores": _usable_cores(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bf16": cpu_has_bf16(),
        },
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "memory_limit_bytes": memory_limit(),
        "cuda": torch.version.cuda,
        "gpus": _gpus(),
    }


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; `False` where the system does not list its flags."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return match is not None and not _BF16_FLAGS.isdisjoint(match.group(1).split())


@cache
def _cpuinfo() -> str:
    """Linux's description of the processor; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def processor_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    # A container or `taskset` may allow fewer than the machine has; macOS and Windows cannot tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """Commit of the checkout the package runs from, and whether it has changes; `None` when installed."""
    if not (_ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout git refuses to read
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(changes)}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def _gpus() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": gpu.name, "memory_bytes": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}"} for gpu in found
    ]
