"""Peak memory of the process, or of the GPU it runs on."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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
