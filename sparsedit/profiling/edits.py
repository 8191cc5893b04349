"""The whole edit as its users get it, densely and thinly in turn: planning, pictures in and out, every step."""

from __future__ import annotations

from typing import Any

import torch

from sparsedit.editor import SparseEditor
from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import peak_during
from sparsedit.measure.rounds import OnRound, interleave
from sparsedit.plan import Edit, Request
from sparsedit.profiling.calls import Sampling
from sparsedit.profiling.models import REFINER, TEXT, pipelines_of
from sparsedit.results import Result
from sparsedit.tasks.refine import parts

TOTAL = "total"
"""Everything between the call of an edit and its result; a little more than its stages together."""


class EditRuns:
    """One edit of one original. The thin one is an edit after the original was recorded: the n-th, not the first.

    `entered` holds, for dense and thin edits, how often an edit enters each of its stages.
    """

    def __init__(self, editor: SparseEditor, request: Request, edit: Edit) -> None:
        self.editor = editor
        self.request = request
        self.edit = edit
        self.entered: dict[str, dict[str, int]] = {}

    def dense(self, clock: Clock) -> None:
        """The stock pipeline, its prompts encoded anew."""
        with clock.stage(TOTAL):
            result = self.editor.dense(self.request, self.edit)
        self._add("dense", clock, result)

    def thin(self, clock: Clock) -> None:
        """A warm edit. Its prompt is encoded where it is not the original's, which recording has left encoded."""
        request = self.request
        for stages in pipelines_of(self.editor):
            stages.forget_texts()
            with torch.inference_mode():
                stages.text([request.prompt], request.negative, request.schedule)
        with clock.stage(TOTAL):
            result = self.editor.edit(self.edit.edited, mask=self.edit.mask, prompt=self.edit.prompt)
        self._add("sparse", clock, result)

    def _add(self, kind: str, clock: Clock, result: Result) -> None:
        """One sample for each stage that ran, all its calls together."""
        self.entered[kind] = {stage: len(samples) for stage, samples in result.clock.samples.items()}
        for stage in result.clock.samples:
            clock.add(stage, result.clock.seconds(stage))


def time_edit(runs: EditRuns, sampling: Sampling, on_round: OnRound) -> dict[str, Any]:
    """Interleaved samples of the dense and the thin edit by stage, with the peak of either, and the recording.

    "calls" says how often either calls the model of each stage. The passes that show the peaks are the first warm-up
    round.
    """
    request, device = runs.request, runs.editor.stages.device
    peaks = {"dense_peak_bytes": peak_during(lambda: runs.dense(Clock(device)), device)}
    recorded = runs.editor.record_request(request)
    peaks["sparse_peak_bytes"] = peak_during(lambda: runs.thin(Clock(device)), device)
    clocks = interleave(
        {"dense": runs.dense, "sparse": runs.thin},
        device,
        samples=sampling.samples,
        warmup=sampling.warmup - 1,
        on_round=on_round,
    )
    times = {stage: len(cache) for stage, cache in recorded.caches.items()}
    times["controlnet"] = 1  # every call of it is a sample
    texts = _texts(runs.editor, request)
    return {
        "seconds": {kind: dict(clock.samples) for kind, clock in clocks.items()},
        "calls": {
            kind: {stage: entered[stage] * calls for stage, calls in times.items() if stage in entered}
            | ({TEXT: texts} if TEXT in entered else {})
            for kind, entered in runs.entered.items()
        },
        "record_s": recorded.clock.total,
        "memory": peaks | {"cache_bytes": recorded.nbytes},
    }


def expected_calls(editor: SparseEditor, request: Request, edit: Edit) -> dict[str, dict[str, int]]:
    """What `time_edit` would say of "calls", for an edit that is counted and not run."""
    stages, schedule, texts = editor.stages, request.schedule, {TEXT: _texts(editor, request)}
    # An inpainting model is shown the picture without its hole, too.
    models = {"encoder": 2 if stages.channels > 4 else 1, "decoder": 1}
    if editor.refiner is not None and request.refine_from is not None:
        schedule, second = parts(stages, editor.refiner, request.refine_from, schedule)
        models[REFINER] = editor.refiner.calls(second)
    models["unet"] = stages.calls(schedule)
    if stages.controlnet is not None:
        models["controlnet"] = models["unet"]
    return {"dense": texts | models, "sparse": (texts if has_new_prompt(request, edit) else {}) | models}


def _texts(editor: SparseEditor, request: Request) -> int:
    """How many texts a prompt is to the pipelines together."""
    return sum(each.texts_per_prompt(request.negative, request.schedule) for each in pipelines_of(editor))


def has_new_prompt(request: Request, edit: Edit) -> bool:
    """Whether an edit has a prompt of its own, which is encoded and projected for it."""
    return edit.prompt not in (None, request.prompt)
