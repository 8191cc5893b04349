"""One call of the full-size SDXL UNet, dense against thin, on the published cases.

    python benchmarks/unet_call.py --data DIR [--samples N] [--no-pack] [--output FILE]

Random weights, bf16 where the processor has it, 512x1024 pixels, batch 2 (classifier-free guidance). Every round runs
the dense call once and each thin one after it, so that a ratio never compares two different moments of a machine;
what counts is the median of the ratios. The baseline is diffusers' own model with scaled-dot-product attention.
DIR holds the published pictures (see manifests/sige.yaml). The last line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from sparsedit.environment import environment
from sparsedit.images import load_image, to_tensor
from sparsedit.masks import difference, dilate, edit_ratio, load_mask
from sparsedit.measure.memory import peak_bytes
from sparsedit.measure.twin import Twin, unet_conditions
from sparsedit.models.placement import resolve_dtype
from sparsedit.models.presets import get_preset
from sparsedit.models.random import random_model, random_pipeline
from sparsedit.settings import POLICIES
from sparsedit.sparse import ActivationCache, PackedWeights, SitePyramid, record, sparse
from sparsedit.stages import Stages

HEIGHT, WIDTH, BATCH = 512, 1024, 2


def cases(data: Path) -> dict[str, torch.Tensor]:
    """The published edits as masks [512, 1024], before any dilation."""
    original, edited = (to_tensor(load_image(data / f"sdedit0_{name}.png")) for name in ("original", "edited"))
    return {
        "sdedit0": difference(original, edited, POLICIES["tight"].threshold),
        "inpaint": load_mask(data / "inpaint_mask.npy", (WIDTH, HEIGHT)),
    }


def call(unet: torch.nn.Module, inputs: tuple[Any, ...], conditions: dict[str, Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    unet(*inputs, **conditions)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(model: str, data: Path, samples: int, pack: bool) -> dict[str, Any]:
    preset = get_preset(model)
    device = torch.device("cpu")
    dtype = resolve_dtype("auto", device, preset)
    stages = Stages(random_pipeline(preset, dtype, device="meta"))
    twin = Twin(stages, HEIGHT, WIDTH, BATCH)
    config = dict(stages.unet.config)
    unet = random_model(type(stages.unet), config, dtype)
    generator = torch.Generator().manual_seed(0)

    def real(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator).to(dtype)

    conditions = unet_conditions(stages, BATCH)
    conditions["encoder_hidden_states"] = real(conditions["encoder_hidden_states"])
    conditions["added_cond_kwargs"] = {key: real(value) for key, value in conditions["added_cond_kwargs"].items()}
    inputs = (torch.randn(BATCH, stages.channels, HEIGHT // 8, WIDTH // 8, generator=generator).to(dtype), 500)
    cache, packed = ActivationCache(), PackedWeights() if pack else None
    rows: dict[str, dict[str, Any]] = {}
    sites: dict[str, SitePyramid] = {}
    for case, mask in cases(data).items():
        for policy_name, policy in POLICIES.items():
            name = f"{case}/{policy_name}"
            sites[name] = SitePyramid.from_mask(dilate(mask, policy.grow), level_dilation=policy.level_dilation)
            rows[name] = {"edit_ratio": edit_ratio(mask), "macs": twin.thin("unet", sites[name]).macs, "seconds": []}
    dense = {"macs": twin.dense("unet").macs, "attention_macs": twin.dense("unet").attention_macs, "seconds": []}
    with record(unet, cache):
        record_seconds = call(unet, inputs, conditions)
    step = cache.steps[0]
    cache.steps += [step] * (samples + 1)
    for number in range(samples + 1):
        seconds = {"dense": call(unet, inputs, conditions)}
        for name, pyramid in sites.items():
            with sparse(unet, cache, pyramid, packed=packed):
                call(unet, inputs, conditions)
                seconds[name] = call(unet, inputs, conditions)
        if number:
            dense["seconds"].append(seconds["dense"])
            for name, row in rows.items():
                row["seconds"].append(seconds[name])
    for row in rows.values():
        ratios = [a / b for a, b in zip(dense["seconds"], row["seconds"], strict=True)]
        row |= {"speedup": statistics.median(ratios), "speedup_range": [min(ratios), max(ratios)]}
        row["macs_ratio"] = dense["macs"] / row["macs"]
    return {
        "model": model,
        "size": [WIDTH, HEIGHT],
        "batch": BATCH,
        "dtype": str(dtype).removeprefix("torch."),
        "load": os.getloadavg()[0],
        "record_s": record_seconds,
        "cache_bytes_per_step": step.nbytes,
        "packed_bytes": packed.nbytes if packed else 0,
        "peak_bytes": peak_bytes(device),
        "dense": dense,
        "thin": rows,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="sdxl")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--pack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = measure(options.model, options.data, options.samples, options.pack)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
