"""Peak memory of the process, or of the GPU it runs on, what it may still take, and what it can give back."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")
_UNLIMITED = 1 << 62
"""Cgroups of version 1 have no word for it but the largest number of whole pages."""

# What torch's allocator for CPUs says, whose exception is a plain RuntimeError.
_SAID = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


def ran_out(error: BaseException) -> bool:
    """Whether this was raised for want of memory, Python's, the CPU's or a device's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def peak_bytes(device: torch.device) -> int:
    """Largest memory held since `forget_peak`, or since the start where that could not be.

    Allocated by torch on a CUDA device, resident in the process elsewhere, weights and everything else included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage on Linux: its figure outlives exec, and so may be that of the program that started this one.
    if _STATUS.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)):
        return int(found.group(1)) * 1024
    import resource  # Unix alone has it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: torch.device) -> bool:
    """Let the peak begin anew at what is held now; False where the system keeps the highest of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def peak_during(run: Callable[[], object], device: torch.device) -> int | None:
    """Largest memory held while `run` runs, what was held before included; None where the system cannot tell."""
    fresh = forget_peak(device)
    run()
    return peak_bytes(device) if fresh else None


def give_back() -> None:
    """Return to the system what C's heap holds free between blocks in use; there is a way with glibc alone.

    Costs a page fault for every page of it that is needed again.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Python's collector off all that exists at the start of the block, libraries and models above all.

    To go over these takes it 0.3 s a time, in the midst of whatever is being timed: as long as a small edit. What
    loading has left in cycles is freed before.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def memory_limit() -> int | None:
    """Bytes that the limits on this process's groups allow it (cgroups, which containers and batch systems set).

    None where none is set, and on other systems than Linux.
    """
    return min((limit for limit, _ in _limits()), default=None)


def memory_left() -> int | None:
    """Bytes that this process may still take: what the machine has, or less where a limit on its groups leaves less.

    Memory that holds nothing but copies of files counts as left. None where the system cannot tell.
    """
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMORY.read_text(), re.MULTILINE)
    except OSError:
        return None
    machine = [int(available.group(1)) * 1024] if available else []
    return min([*machine, *(max(0, limit - used) for limit, used in _limits())], default=None)


def _limits() -> Iterator[tuple[int, int]]:
    """Limit and use of every group of this process, or above its own, that has a limit."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = root / path.lstrip("/")
        # In a container the path may be the one outside, and the root the container's own group.
        for folder in (own, *own.parents) if own.is_dir() else (root,):
            if folder.is_relative_to(root):
                yield from _limit(folder, *names)


def _limit(folder: Path, maximum: str, current: str, files: str) -> Iterator[tuple[int, int]]:
    try:
        limit, used = ((folder / name).read_text().strip() for name in (maximum, current))
        statistics = (folder / "memory.stat").read_text()
    except OSError:  # a root has none
        return
    if limit == "max" or int(limit) >= _UNLIMITED:
        return
    of_files = re.search(rf"^{files} (\d+)$", statistics, re.MULTILINE)
    yield int(limit), int(used) - (int(of_files.group(1)) if of_files else 0)
