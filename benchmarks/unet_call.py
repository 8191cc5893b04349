"""One call of the full-size SDXL UNet, dense against thin, on the published cases.

    python benchmarks/unet_call.py --data DIR [--samples N] [--no-pack] [--compiled] [--output FILE]

Random weights, bf16 where the processor has it, 512x1024 pixels, batch 2 (classifier-free guidance). Every round runs
the dense call once and each thin one after it, so that a ratio never compares two different moments of a machine;
what counts is the median of the ratios. Thin calls come in a row, as in an edit: one that is not timed, then the median
of three. The baseline is diffusers' own model with scaled-dot-product attention, and with --compiled the same model by
torch.compile beside it (which needs a C++ compiler, and minutes for compiling).
DIR holds the published pictures (see manifests/sige.yaml). The last line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from sparsedit.environment import environment
from sparsedit.images import load_image, to_tensor
from sparsedit.masks import difference, load_mask
from sparsedit.measure.memory import peak_bytes
from sparsedit.measure.twin import Twin, unet_conditions
from sparsedit.models.placement import resolve_dtype
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_model, random_pipeline
from sparsedit.settings import POLICIES
from sparsedit.sparse import ActivationCache, PackedWeights, SitePyramid, dilate, record, sparse
from sparsedit.sparse.rows import map_tensors
from sparsedit.stages import Stages

HEIGHT, WIDTH, BATCH = 512, 1024, 2
IN_A_ROW = 3
CPU = torch.device("cpu")


def cases(data: Path) -> dict[str, torch.Tensor]:
    """The published edits as masks [512, 1024], before any dilation."""
    original, edited = (to_tensor(load_image(data / f"sdedit0_{name}.png")) for name in ("original", "edited"))
    return {
        "sdedit0": difference(original, edited, POLICIES["tight"].threshold),
        "inpaint": load_mask(data / "inpaint_mask.npy", (WIDTH, HEIGHT)),
    }


def call(unet: Callable[..., object], inputs: tuple[Any, ...], conditions: dict[str, Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    unet(*inputs, **conditions)
    return time.perf_counter() - start


@dataclass
class Row:
    """One way of making the call: its multiply-adds and its raw seconds."""

    macs: int
    seconds: list[float] = field(default_factory=list)

    def against(self, dense: Row, compiled: Row | None = None) -> dict[str, Any]:
        """This row as JSON, with its ratios to the dense calls of the same rounds, and to the compiled ones."""
        ratios = self.ratios(dense)
        spread = {"speedup": statistics.median(ratios), "speedup_range": [min(ratios), max(ratios)]}
        if compiled is not None:
            spread["speedup_to_compiled"] = statistics.median(self.ratios(compiled))
        return asdict(self) | spread | {"macs_ratio": dense.macs / self.macs}

    def ratios(self, reference: Row) -> list[float]:
        """How many times as long another way took, round by round."""
        return [a / b for a, b in zip(reference.seconds, self.seconds, strict=True)]


def site_pyramids(data: Path) -> dict[str, SitePyramid]:
    """The sites of every case under every policy."""
    return {
        f"{case}/{name}": SitePyramid.from_mask(dilate(mask, policy.grow), level_dilation=policy.level_dilation)
        for case, mask in cases(data).items()
        for name, policy in POLICIES.items()
    }


def random_conditions(stages: Stages, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    """What a pipeline would give the UNet beside its latents, in random numbers."""

    def real(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator).to(dtype)

    conditions: dict[str, Any] = map_tensors(unet_conditions(stages, BATCH), real)
    return conditions


@torch.inference_mode()
def measure(model: str, data: Path, samples: int, pack: bool, compiling: bool) -> dict[str, Any]:
    """Interleaved rounds of the dense call and every thin one; the first round warms up and is not kept."""
    preset = get_preset(model)
    dtype = resolve_dtype("auto", CPU, preset)
    stages = Stages(random_pipeline(preset, dtype, device="meta"))
    twin = Twin(stages, HEIGHT, WIDTH, BATCH)
    unet = random_model(type(stages.unet), dict(cast(Any, stages.unet).config), dtype)
    generator = torch.Generator().manual_seed(0)
    conditions = random_conditions(stages, dtype, generator)
    inputs = (torch.randn(BATCH, stages.channels, HEIGHT // 8, WIDTH // 8, generator=generator).to(dtype), 500)
    cache, packed = ActivationCache(), PackedWeights() if pack else None
    sites = site_pyramids(data)
    rows = {name: Row(twin.thin("unet", pyramid).macs) for name, pyramid in sites.items()}
    models: dict[str, Callable[..., object]] = {"dense": unet}
    if compiling:
        models["compiled"] = cast(Callable[..., object], torch.compile(unet))
    whole = {name: Row(twin.dense("unet").macs) for name in models}
    dense, compiled = whole["dense"], whole.get("compiled")
    with record(unet, cache):
        record_seconds = call(unet, inputs, conditions)
    cache.steps *= 1 + IN_A_ROW
    for number in range(samples + 1):
        for name, each in models.items():
            seconds = call(each, inputs, conditions)
            whole[name].seconds += [seconds] * (number > 0)
        for name, pyramid in sites.items():
            with sparse(unet, cache, pyramid, packed=packed):
                call(unet, inputs, conditions)
                seconds = statistics.median(call(unet, inputs, conditions) for _ in range(IN_A_ROW))
            rows[name].seconds += [seconds] * (number > 0)
    return {
        "model": model,
        "size": [WIDTH, HEIGHT],
        "batch": BATCH,
        "dtype": str(dtype).removeprefix("torch."),
        "load": os.getloadavg()[0],
        "record_s": record_seconds,
        "cache_bytes_per_step": cache.steps[0].nbytes,
        "packed_bytes": packed.nbytes if packed else 0,
        "peak_bytes": peak_bytes(CPU),
        "dense": asdict(dense) | {"attention_macs": twin.dense("unet").attention_macs},
        "compiled": None if compiled is None else compiled.against(dense),
        "thin": {name: row.against(dense, compiled) for name, row in rows.items()},
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="sdxl")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--pack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compiled", action="store_true", help="the dense model by torch.compile as well")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = measure(options.model, options.data, options.samples, options.pack, options.compiled)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
