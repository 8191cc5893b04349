"""A model by its name, loaded as settings say."""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.models.loading import empty_pipeline, load_pipeline, load_refiner
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


def empty_models(model: str, settings: Settings) -> tuple[DiffusionPipeline, DiffusionPipeline | None]:
    """`load_models` on the meta device: shapes without numbers, for counting. Raises as `empty_pipeline`."""
    parts = {"vae": settings.vae, "controlnet": settings.controlnet, "scheduler": settings.scheduler}
    pipe = empty_pipeline(model, settings.dtype, settings.device, **parts)
    return pipe, load_refiner(settings.refiner, model, pipe, weights="random") if settings.refiner else None
