"""Run jobs in this process, one after the other: edits, their dense counterparts, scores, pictures, records.

A record is appended when its pictures are on the disk. A job that fails for a reason the user can understand, or for
want of memory, leaves records that say so, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from sparsedit.calibration import plan_dense_steps
from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter
from sparsedit.engines.editors import Editors, request_of
from sparsedit.engines.entries import Done, Head, head, measurements, nothing_measured
from sparsedit.engines.exhaustion import FAILURES, free, reason_of
from sparsedit.engines.steps import dense_runs
from sparsedit.errors import InputError
from sparsedit.frame import Frame
from sparsedit.images import load_image, save_image, to_image
from sparsedit.jobs import Job
from sparsedit.manifest import Variant
from sparsedit.masks import load_mask
from sparsedit.metrics.quality import Judge
from sparsedit.metrics.scorer import Scores
from sparsedit.plan import Edit, Request, as_tensor
from sparsedit.records import Record, append_record
from sparsedit.results import Recorded, Result
from sparsedit.runs import RunFolder
from sparsedit.settings import FOLLOWING
from sparsedit.stages import Stages
from sparsedit.tasks.pan import pan
from sparsedit.tasks.rotate import turn
from sparsedit.tasks.words import capture_steps, check_words, spreads


class Watch(Protocol):
    """Who is told how far a run has come."""

    def begin(self, label: str, steps: int) -> None:
        """A pass over `steps` denoising steps begins."""

    def step(self) -> None:
        """One step of it is done."""

    def finished(self, record: Record) -> None:
        """A record has been written."""


def check_inputs(jobs: Sequence[Job]) -> None:
    """Open every picture and mask of the jobs and compare their sizes; raises InputError for the first misfit."""
    for job in jobs:
        original = open_original(job)
        words = job.prompt
        for variant in job.variants:
            _check_task(job, variant, words, original.size)
            words = variant.prompt if job.case.series else words
            edited = original if variant.edited is None else load_image(variant.edited)
            if edited.size != original.size:
                raise InputError(
                    f"{variant.edited} is {edited.width}x{edited.height}, its original {job.case.original} "
                    f"{original.width}x{original.height}; they must be the same"
                )
            if variant.mask is not None:
                load_mask(variant.mask, original.size)


def _check_task(job: Job, variant: Variant, words: str, size: tuple[int, int]) -> None:
    """Raise SettingsError for new words that are the `words` before or whose mask cannot be found as asked, and for
    motions that change nothing, or leave nothing of the picture."""
    match job.settings.task:
        case "prompt":
            check_words(words, variant.prompt)
            capture_steps(job.settings.capture_steps, job.settings.last_dense, job.settings.calls)
            spreads(job.settings.mask_from, job.settings.calls, of_few=plan_dense_steps(job.settings) is not None)
        case "pan":
            pan(variant.by, size[::-1])
        case "rotate":
            turn(variant.angle, size[::-1])


def check_sizes(jobs: Sequence[Job], stages: Stages) -> list[str]:
    """A sentence for every original that is padded for the model and cropped back, once for each.

    Raises InputError for the first one whose task takes no padding.
    """
    said: dict[Path, str] = {}
    for job in jobs:
        width, height = open_original(job).size
        frame = Frame((height, width), stages.scale)
        if frame.fits:
            continue
        if job.settings.task in FOLLOWING or job.case.original is None:
            stages.check_size(height, width)
            continue
        padded = f"{frame.padded[1]}x{frame.padded[0]}"
        said[job.case.original] = f"{job.case.original.name} is {width}x{height}: padded to {padded} and cropped back"
    return list(said.values())


def run_jobs(
    jobs: Sequence[Job],
    pipe: DiffusionPipeline,
    model: str,
    folder: RunFolder,
    watch: Watch,
    suite: str,
    refiner: DiffusionPipeline | None = None,
) -> Iterator[Record]:
    """Run the jobs in order, each picture finished by the `refiner` if there is one; every record is yielded after it
    was written."""
    runner = _Runner(pipe, model, folder, watch, suite, refiner)
    for job in jobs:
        done, reason = 0, None
        try:
            for record in runner.run(job):
                done += 1
                yield record
        except FAILURES as error:
            if (reason := reason_of(error)) is None:
                raise
        if reason is not None:
            free(runner.editors)
            for variant in job.variants[done:]:
                yield runner.write(runner.failed(job, variant, reason))


class _Runner:
    """One pipeline and the folder its results go to."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        model: str,
        folder: RunFolder,
        watch: Watch,
        suite: str,
        refiner: DiffusionPipeline | None,
    ) -> None:
        self.pipe: Any = pipe
        self.model = model
        self.folder = folder
        self.watch = watch
        self.suite = suite
        self.counter = Counter()
        self.judge = Judge(self.pipe._execution_device)
        self.editors = Editors(pipe, refiner, lambda done, total: watch.step())

    def run(self, job: Job) -> Iterator[Record]:
        editor = self.editors.of(job.settings)
        for stages in filter(None, (editor.stages, editor.refiner)):
            stages.forget_texts()  # or prompts would cost nothing where an earlier job had the same
        original = open_original(job)
        given = original if job.case.original else None
        request = request_of(editor, job.settings, given, job.prompt, job.seed)
        edits = [load_edit(variant, original) for variant in job.variants]
        if job.case.series:
            edits = [replace(edit, upon=as_tensor(original)) if edit.mask is None else edit for edit in edits]
        for variant, edit, (whole, result) in zip(
            job.variants, edits, self._edited(editor, request, job, edits), strict=True
        ):
            if job.case.series:
                request = whole.request
            dense = self._dense(editor, request, job, variant, edit) if job.settings.dense else None
            done = Done(whole.request if request.generated else request, whole, result, dense)
            self._save(job, variant, done.request, result, dense)
            yield self.write(self._record(editor, job, variant, done))

    def write(self, record: Record) -> Record:
        record = append_record(self.folder.records, record)
        self.watch.finished(record)
        return record

    def failed(self, job: Job, variant: Variant, reason: str) -> Record:
        return self._head(job, variant) | nothing_measured(reason)

    def _edited(
        self, editor: SparseEditor, request: Request, job: Job, edits: list[Edit]
    ) -> Iterator[tuple[Recorded, Result]]:
        calls = editor.stages.calls(request.schedule)
        inverted = calls if job.inverted else 0
        if job.settings.way == "alongside":
            self.watch.begin(f"{job.case.id}: original and {len(edits)} edits alongside", calls)
            whole, results = editor.alongside(request, edits)
            yield from ((whole, result) for result in results)
            return
        planned = plan_dense_steps(job.settings)
        between = calls if planned and job.settings.task == "prompt" else 0
        if job.settings.way == "cold" and planned is not None:
            for variant, edit in zip(job.variants, edits, strict=True):
                steps = inverted + planned.count + between + calls
                self.watch.begin(f"{job.case.id}/{variant.id}: {planned}, then all thin", steps)
                yield editor.cold(request, edit, planned.count)
            return
        shelf = editor.shelf(request, planned.count if planned else None, edits)
        self.watch.begin(f"{job.case.id}: {shelf}", inverted + (planned.count + between if planned else calls))
        whole = editor.record_request(request, shelf=shelf)
        for variant, edit in zip(job.variants, edits, strict=True):
            self.watch.begin(f"{job.case.id}/{variant.id}: edit", calls * job.passes)
            if job.case.series:  # of which the recording is another one afterwards
                whole = editor.recorded or whole
                yield whole, editor.advance(edit)
            else:
                result = editor.apply(edit)
                yield editor.recorded or whole, result

    def _dense(self, editor: SparseEditor, request: Request, job: Job, variant: Variant, edit: Edit) -> Result:
        calls = editor.stages.calls(request.schedule)
        self.watch.begin(f"{job.case.id}/{variant.id}: dense, for comparison", calls * dense_runs(job))
        return editor.dense(request, edit)

    def _save(self, job: Job, variant: Variant, request: Request, result: Result, dense: Result | None) -> None:
        folder = self.folder.images(job.case.id, variant.id)
        pictures = {
            "original": to_image(request.original),
            "edited": to_image(result.plan.picture),
            "mask": Image.fromarray(result.mask.numpy().astype(np.uint8) * 255),
            "sparse": result.image,
        }
        if dense is not None:
            pictures["dense"] = dense.image
            pictures["heat"] = heat(result.picture, dense.picture)
        for name, picture in pictures.items():
            save_image(picture, folder / f"{name}.png")

    def _record(self, editor: SparseEditor, job: Job, variant: Variant, done: Done) -> Record:
        quality = self._quality(variant, done.request, done.result)
        measured = measurements(self.counter, editor, self.judge, job.settings, done)
        return self._head(job, variant) | measured | {"quality": quality.entry(), "missing": quality.missing}

    def _head(self, job: Job, variant: Variant) -> Record:
        prompts = (job.case.prompt, job.prompt, variant.prompt)
        identity = job.record_id(variant, self.model)
        names = Head(identity, job.case.id, variant.id, self.suite, variant.edit_type, self.model, prompts)
        return head(names, job.settings, self.pipe) | {"series": job.place(variant)}

    def _quality(self, variant: Variant, request: Request, result: Result) -> Scores:
        before = result.plan.picture if request.task in ("pan", "rotate") else request.original
        return self.judge.quality(to_image(before), result.image, result.plan.changed.numpy(), variant.prompt)


def heat(a: Tensor, b: Tensor) -> Image.Image:
    """Where two pictures [1, 3, H, W] in [-1, 1] differ: black 0, white a difference of 1/4 of the range or more."""
    difference = (a - b).abs().amax(1)[0] / 0.5
    return Image.fromarray((difference.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def load_edit(variant: Variant, original: Image.Image) -> Edit:
    """The pictures of a variant, opened and compared with the size of its original."""
    edited = None if variant.edited is None else as_tensor(load_image(variant.edited))
    mask = None if variant.mask is None else load_mask(variant.mask, original.size)
    return Edit(edited, mask, variant.prompt, variant.by, variant.angle)


def open_original(job: Job) -> Image.Image:
    """A job's original, or a black picture of the size of one that is still to be made."""
    if job.case.original is not None:
        return load_image(job.case.original)
    assert job.settings.picture_size is not None  # as the plan of the jobs has checked
    return Image.new("RGB", job.settings.picture_size)
