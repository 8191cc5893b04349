"""Runs the tasks of a bench: one edit densely, then in each way that is wanted of it, each compared with the dense one.

A worker returns what came of it, pictures as PNG files, and writes nothing, so that it may sit in another process. What
it returns depends on the task alone, seconds and peak memory aside: not on what it ran before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from sparsedit.bench.heads import Place, failed, full_head
from sparsedit.bench.meter import Meter, TimedJudge
from sparsedit.bench.outcome import Files, Outcome
from sparsedit.bench.plan import Task
from sparsedit.bench.ways import CROP, DENSE, STEP_SKIP, settings_of
from sparsedit.calibration import plan_dense_steps
from sparsedit.editor import SparseEditor
from sparsedit.engines.controls import crop, step_skip, steps_of_a_cold_edit
from sparsedit.engines.costs import Counter
from sparsedit.engines.editors import Editors, request_of
from sparsedit.engines.entries import Done, measurements
from sparsedit.engines.exhaustion import FAILURES, free, reason_of
from sparsedit.engines.local import heat
from sparsedit.engines.pipelines import load_models
from sparsedit.images import png, to_image
from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import give_back
from sparsedit.metrics.pixels import Mask
from sparsedit.plan import Edit, Request, as_tensor
from sparsedit.records import Record
from sparsedit.results import Recorded, Result
from sparsedit.suites.edit import GIVEN, Inputs

TIDY = 10
"""Cases after which free memory goes back to the system; blocks that live long, as oneDNN's kernels do, let a heap
come apart bit by bit."""


@dataclass(frozen=True)
class _Case:
    """A task with its pictures open and its editor at hand."""

    task: Task
    inputs: Inputs
    editor: SparseEditor
    request: Request
    edit: Edit


class Worker:
    """Runs tasks on one set of models at a time: those of the latest task. `pictures` says whether they are wanted."""

    def __init__(self, *, pictures: bool) -> None:
        self.pictures = pictures
        self._loaded: tuple[Any, ...] | None = None
        self._models: _Models | None = None

    def run(self, task: Task) -> Iterator[Outcome]:
        """An outcome for each of the task's ways, in their order; a way that fails is a record with its reason.

        Raises a SparseditError where the model cannot be loaded.
        """
        meter = Meter()
        if self._models is None or self._loaded != task.cell.loading:
            self._models = None  # the old ones go before the new ones come
            with meter.loading():
                self._models, self._loaded = _Models(task, pictures=self.pictures), task.cell.loading
        return self._models.run(task, meter)


class _Models:
    """Loaded models, and the tasks that are run on them."""

    def __init__(self, task: Task, *, pictures: bool) -> None:
        pipe, refiner = load_models(task.cell.model, task.cell.settings)
        self.place = Place.of(pipe)
        self.pictures = pictures
        self.editors = Editors(pipe, refiner, lambda done, total: None)
        self.counter = Counter()
        self.judge = TimedJudge(self.place.device)
        self.cases = 0

    def run(self, task: Task, meter: Meter) -> Iterator[Outcome]:
        for outcome in self._outcomes(task, meter):
            meter.scores += self.judge.take()
            yield replace(outcome, seconds=meter.take())
            meter.go_on()
        self.cases += 1
        if self.cases % TIDY == 0:
            give_back()

    def _outcomes(self, task: Task, meter: Meter) -> Iterator[Outcome]:
        reason = None
        try:
            case = self._open(task)
            dense = self._dense(case, meter) if DENSE in task.ways or task.settings.dense else None
        except FAILURES as error:
            if (reason := reason_of(error)) is None:
                raise
        if reason is not None:
            free(self.editors)
            for way in task.ways:
                yield Outcome(failed(task, way, reason, self.place))
            return
        shared = _files(_shared(case, dense)) if self.pictures else {}
        for way in task.ways:
            yield self._outcome(case, way, dense, shared, meter)

    def _outcome(self, case: _Case, way: str, dense: Result | None, shared: Files, meter: Meter) -> Outcome:
        try:
            done = self._run(case, way, dense)
            meter.ran(done)
            record = self._record(case, way, done)
            return Outcome(record, _files(_pictures(done, way)) if self.pictures else {}, shared)
        except FAILURES as error:
            if (reason := reason_of(error)) is None:
                raise
        free(self.editors)
        return Outcome(failed(case.task, way, reason, self.place))

    def _open(self, task: Task) -> _Case:
        inputs = task.edit.open()
        editor = self.editors.of(task.settings)
        request = request_of(editor, task.settings, inputs.original, task.prompt, task.seed)
        mask = torch.from_numpy(inputs.mask) if inputs.mask is not None and task.track == GIVEN else None
        edited = None if inputs.edited is None else as_tensor(inputs.edited)
        return _Case(task, inputs, editor, request, Edit(edited, mask, task.edit.edit_prompt))

    def _dense(self, case: _Case, meter: Meter) -> Result:
        result = case.editor.dense(case.request, case.edit)
        meter.model += result.clock.total
        return result

    def _run(self, case: _Case, way: str, dense: Result | None) -> Done:
        editor, request, edit = case.editor, case.request, case.edit
        for stages in filter(None, (editor.stages, editor.refiner)):
            stages.forget_texts()  # or the first way would pay for the prompts of all
        settings = settings_of(way, case.task.settings)
        planned = plan_dense_steps(settings)
        plain = Recorded(request, request.original, Clock(torch.device(self.place.device)))
        free = request.task == "sdedit"
        if way == DENSE:
            assert dense is not None
            return Done(request, plain, dense, dense, free=free)
        if way == STEP_SKIP:
            ran, result = step_skip(editor, request, edit, self._steps(case))
            return Done(request, plain, result, dense, ran=ran, free=free)
        if way == CROP:
            ran, result = crop(editor, request, edit, settings)
            return Done(request, plain, result, dense, ran=ran)
        if way == "alongside":
            whole, [result] = editor.alongside(request, [edit])
        elif way == "cold":
            assert planned is not None  # a cold edit always has a number
            whole, result = editor.cold(request, edit, planned.count)
        else:
            shelf = editor.shelf(request, planned.count if planned else None, [edit])
            whole = editor.record_request(request, shelf=shelf)
            result = editor.edit(edit.edited, mask=edit.mask, prompt=edit.prompt)
            editor.recorded = None
        return Done(request, whole, result, dense)

    def _steps(self, case: _Case) -> int:
        """The dense steps of way step-skip."""
        if case.task.skip is not None:
            return case.task.skip
        planned = plan_dense_steps(settings_of("cold", case.task.settings))
        assert planned is not None  # a cold edit always has a number
        return steps_of_a_cold_edit(self.counter, case.editor, case.request, case.edit, planned.count)

    def _record(self, case: _Case, way: str, done: Done) -> Record:
        settings = settings_of(way, case.task.settings)
        measured = measurements(self.counter, case.editor, self.judge, settings, done)
        mask = done.result.plan.changed.numpy() if case.inputs.mask is None else case.inputs.mask
        quality = self.judge.quality(case.inputs.original, done.result.image, mask, case.task.edit.edit_prompt)
        return (
            full_head(case.task, way, self.place)
            | measured
            | {
                "quality": quality.entry(),
                "missing": quality.missing,
                "truth": self._truth(case.inputs, done.result, mask),
            }
        )

    def _truth(self, inputs: Inputs, result: Result, mask: Mask) -> Mapping[str, Any] | None:
        """How near the edit came to what it should have made, where the suite knows that."""
        if inputs.truth is None:
            return None
        return self.judge.truth(result.image, inputs.truth, mask)


def _files(pictures: Mapping[str, Image.Image]) -> Files:
    return {name: png(picture, fast=True) for name, picture in pictures.items()}


def _shared(case: _Case, dense: Result | None) -> dict[str, Image.Image]:
    pictures = {"original": case.inputs.original}
    if dense is not None:
        mask = Image.fromarray(dense.mask.numpy().astype(np.uint8) * 255)
        pictures |= {"edited": to_image(dense.plan.picture), "mask": mask, "dense": dense.image}
    return pictures


def _pictures(done: Done, way: str) -> dict[str, Image.Image]:
    if way == DENSE:
        return {}
    pictures = {"sparse": done.result.image}
    if done.dense is not None:
        pictures["heat"] = heat(done.result.picture, done.dense.picture)
    return pictures
