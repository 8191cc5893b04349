"""Editors of one pipeline, and the requests that settings make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.cache.shelf import Keeping
from sparsedit.editor import SparseEditor
from sparsedit.moving import MovingEditor
from sparsedit.plan import Picture, Request
from sparsedit.prompting import PromptEditor
from sparsedit.settings import Settings
from sparsedit.stages import OnStep


class Editors:
    """One editor for all edits of the same kind and policy: embeddings and packed weights are made once.

    `refiner`, where there is one, finishes every picture; `on_step` is called after each denoising step.
    """

    def __init__(self, pipe: DiffusionPipeline, refiner: DiffusionPipeline | None, on_step: OnStep) -> None:
        self.pipe = pipe
        self.refiner = refiner
        self.on_step = on_step
        self._editors: dict[tuple[object, ...], SparseEditor] = {}

    def of(self, settings: Settings) -> SparseEditor:
        kind, options = _kind(settings)
        common: dict[str, Any] = {
            "policy": settings.mask_policy(),
            "norm": settings.norm,
            "keeping": _keeping(settings),
        }
        key = (kind, *options.items(), *common.values())
        if key not in self._editors:
            self._editors[key] = kind(self.pipe, on_step=self.on_step, refiner=self.refiner, **common, **options)
        return self._editors[key]

    def forget(self) -> None:
        """Let go of all editors, and so of what they remember of originals."""
        for editor in self._editors.values():
            editor.recorded = None
        self._editors.clear()


def _kind(settings: Settings) -> tuple[type[SparseEditor], dict[str, Any]]:
    """Which editor does the task, and what it alone is told."""
    if settings.task == "prompt":
        return PromptEditor, {name: getattr(settings, name) for name in ("capture_steps", "last_dense", "mask_from")}
    return MovingEditor if settings.task in ("pan", "rotate") else SparseEditor, {}


def request_of(editor: SparseEditor, settings: Settings, original: Picture | None, prompt: str, seed: int) -> Request:
    """What the settings ask for on an original under `prompt`. Raises as `make_request`."""
    return editor.request(
        original,
        prompt=prompt,
        negative_prompt=settings.negative_prompt,
        task=settings.task,
        steps=settings.steps or 0,
        strength=settings.strength or 0.0,
        guidance=settings.guidance or 0.0,
        seed=seed,
        control_scale=settings.control_scale,
        refine_from=settings.refine_from,
        size=settings.picture_size,
        control_from=settings.control_from,
    )


def _keeping(settings: Settings) -> Keeping:
    folder = None if settings.cache is None else Path(settings.cache)
    return Keeping(folder, settings.budget_bytes, settings.cache_precision, settings.cache_rows)
