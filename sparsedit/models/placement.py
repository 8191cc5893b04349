"""Where a model runs, in which number format, and what of it waits elsewhere: `--device`, `--dtype` and `--offload`.

`auto` is decided here once, and `dtype_reason` says why, so that a table can say what it was measured in.
"""

from __future__ import annotations

import re

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from sparsedit.environment import cpu_has_bf16
from sparsedit.errors import SettingsError, did_you_mean
from sparsedit.models.presets import Preset

OFFLOADS = ("none", "model", "sequential", "auto")
"""Where a pipeline's models lie when they are not called: all on the device; `model`: all but the one in use in the
machine's memory; `sequential`: layer by layer, the least memory and the slowest; `auto`: as little as fits."""

HEADROOM = 3 << 30
"""Bytes of a GPU that `auto` leaves to activations, caches and CUDA itself; a call of SDXL at 1024x1024 takes about 1.5
GB, the VAE's decoder the most."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device; `SettingsError` if the machine has none such."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise SettingsError("device 'mps' is not available on this machine; use --device auto or cpu")
        return torch.device("mps")
    if match := re.fullmatch(r"cuda(?::(\d+))?", device):
        return _cuda(device, match.group(1))
    raise SettingsError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:N or mps")


def _cuda(device: str, index: str | None) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise SettingsError(f"device {device!r}: torch sees no CUDA GPU on this machine; use --device auto or cpu")
    number = torch.cuda.current_device() if index is None else int(index)
    if number >= count:
        raise SettingsError(f"device {device!r}: this machine's GPUs are cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", number)


def resolve_dtype(dtype: str, device: torch.device, preset: Preset | None = None) -> torch.dtype:
    """`auto`, `float32`, `bfloat16` or `float16` as a torch dtype; `preset=None`: a model of unknown size."""
    return _resolve(dtype, device, preset)[0]


def dtype_reason(dtype: str, device: torch.device, preset: Preset | None = None) -> str:
    """Why `resolve_dtype` answers what it answers for the same arguments, in a few words."""
    return _resolve(dtype, device, preset)[1]


def _resolve(dtype: str, device: torch.device, preset: Preset | None) -> tuple[torch.dtype, str]:
    if dtype in DTYPES:
        return DTYPES[dtype], "asked for"
    if dtype != "auto":
        raise SettingsError(
            f"unknown dtype {dtype!r}: use auto, float32, bfloat16 or float16{did_you_mean(dtype, DTYPES)}"
        )
    if device.type == "cuda":
        return torch.bfloat16, "GPU: half the memory of float32, and the VAE does not overflow as in float16"
    if device.type != "cpu":
        return torch.float32, f"nothing smaller was tried on {device.type}"
    if preset is not None and preset.embedded is not None:
        return torch.float32, "a model small enough to be part of the package loses nothing to float32"
    if cpu_has_bf16():
        return torch.bfloat16, "the processor multiplies bfloat16 matrices (AVX512-BF16, AMX or Arm BF16)"
    return torch.float32, "the processor has no bfloat16 instructions, so it would be slower than float32"


def check_offload(offload: str, device: torch.device) -> None:
    """Raise SettingsError for an offload that is unknown or, on this device, means nothing."""
    if offload not in OFFLOADS:
        raise SettingsError(f"unknown offload {offload!r}: use {', '.join(OFFLOADS)}{did_you_mean(offload, OFFLOADS)}")
    if offload in ("model", "sequential") and device.type != "cuda":
        raise SettingsError(
            f"offload {offload!r} lets models wait in the machine's memory while a CUDA GPU works; "
            f"on {device.type} they lie there already: use none or auto"
        )


def place(pipe: DiffusionPipeline, device: torch.device, offload: str) -> None:
    """Put a pipeline on a device, or let accelerate fetch its models there when they are called."""
    if offload == "auto":
        offload = choose_offload(pipe, _free_bytes(device))
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)


def choose_offload(pipe: DiffusionPipeline, free: int | None) -> str:
    """What `auto` means for a pipeline where `free` bytes are left on the GPU, None where there is none."""
    models = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    sizes = [sum(weight.nbytes for weight in model.parameters()) for model in models]
    if free is None or sum(sizes) + HEADROOM <= free:
        return "none"
    return "model" if max(sizes) + HEADROOM <= free else "sequential"


def _free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
