"""A model by its name, loaded as settings say."""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.models.loading import load_pipeline, load_refiner
from sparsedit.settings import Settings


def load_models(model: str, settings: Settings) -> tuple[DiffusionPipeline, DiffusionPipeline | None]:
    """The pipeline called `model` and its refiner, if there is one. Raises as `load_pipeline`."""
    pipe = load_pipeline(
        model,
        weights=settings.weights,
        dtype=settings.dtype,
        device=settings.device,
        offload=settings.offload,
        lora=settings.lora,
        vae=settings.vae,
        controlnet=settings.controlnet,
        scheduler=settings.scheduler,
    )
    if not settings.refiner:
        return pipe, None
    how: dict[str, Any] = {"weights": settings.weights, "offload": settings.offload}
    return pipe, load_refiner(settings.refiner, model, pipe, **how)
