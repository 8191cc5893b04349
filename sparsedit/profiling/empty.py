"""Pipelines with shapes and no numbers: what counting needs, in no memory and without a download."""

from __future__ import annotations

from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.models.placement import resolve_device, resolve_dtype
from sparsedit.models.presets import preset_and_file
from sparsedit.models.random import random_pipeline


def empty_pipeline(name: str, dtype: str = "auto", device: str = "auto") -> DiffusionPipeline:
    """The pipeline of a preset or a diffusers folder on the meta device, in the dtype it would have on `device`.

    Raises ModelError for a model whose configuration files are not on this machine.
    """
    preset, _ = preset_and_file(name)
    return random_pipeline(preset or Path(name), resolve_dtype(dtype, resolve_device(device), preset), device="meta")
