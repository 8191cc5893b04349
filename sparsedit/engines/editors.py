"""Editors of one pipeline, and the requests that settings make of them."""

from __future__ import annotations

from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.cache.shelf import Keeping
from sparsedit.editor import SparseEditor
from sparsedit.plan import Picture, Request
from sparsedit.settings import MaskPolicy, Settings
from sparsedit.stages import OnStep


class Editors:
    """One editor for all edits of the same policy: embeddings and packed weights are made once.

    `refiner`, where there is one, finishes every picture; `on_step` is called after each denoising step.
    """

    def __init__(self, pipe: DiffusionPipeline, refiner: DiffusionPipeline | None, on_step: OnStep) -> None:
        self.pipe = pipe
        self.refiner = refiner
        self.on_step = on_step
        self._editors: dict[tuple[MaskPolicy, str, Keeping], SparseEditor] = {}

    def of(self, settings: Settings) -> SparseEditor:
        key = (settings.mask_policy(), settings.norm, _keeping(settings))
        if key not in self._editors:
            policy, norm, keeping = key
            self._editors[key] = SparseEditor(
                self.pipe, policy=policy, norm=norm, on_step=self.on_step, refiner=self.refiner, keeping=keeping
            )
        return self._editors[key]


def request_of(editor: SparseEditor, settings: Settings, original: Picture, prompt: str, seed: int) -> Request:
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
    )


def _keeping(settings: Settings) -> Keeping:
    folder = None if settings.cache is None else Path(settings.cache)
    return Keeping(folder, settings.budget_bytes, settings.cache_precision, settings.cache_rows)
