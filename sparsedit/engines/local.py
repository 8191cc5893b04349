"""Run jobs in this process, one after the other: edits, their dense counterparts, scores, pictures, records.

A record is appended when its pictures are on the disk. A job that fails for a reason the user can understand leaves
records that say so, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor

from sparsedit.editor import Recorded, Result, SparseEditor
from sparsedit.errors import InputError, SparseditError
from sparsedit.images import load_image, save_image, to_image
from sparsedit.jobs import Job
from sparsedit.manifest import Variant
from sparsedit.masks import load_mask
from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import peak_bytes
from sparsedit.measure.twin import Cost, Twin
from sparsedit.metrics.fidelity import PROTOCOL, fidelity
from sparsedit.plan import Edit, Request, as_tensor
from sparsedit.records import SCHEMA, Record, append_record, stage_entry
from sparsedit.runs import RunFolder
from sparsedit.settings import MaskPolicy, Settings

LPIPS_MISSING = "needs the weights of its backbone, which are not part of this package"


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
        original = load_image(job.case.original)
        for variant in job.variants:
            edited = original if variant.edited is None else load_image(variant.edited)
            if edited.size != original.size:
                raise InputError(
                    f"{variant.edited} is {edited.width}x{edited.height}, its original {job.case.original} "
                    f"{original.width}x{original.height}; they must be the same"
                )
            if variant.mask is not None:
                load_mask(variant.mask, original.size)


def check_sizes(jobs: Sequence[Job], scale: int) -> None:
    """Raise InputError for the first original whose sides are no multiples of `scale`, the pixels of one latent."""
    for job in jobs:
        width, height = load_image(job.case.original).size
        if width % scale or height % scale:
            raise InputError(
                f"{job.case.original} is {width}x{height}; with this model both sides must be multiples of {scale}"
            )


def total_steps(jobs: Sequence[Job]) -> int:
    """Denoising steps that a watcher will be told of, all jobs together, as far as can be said beforehand."""
    return sum(job.settings.calls * _passes(job) for job in jobs)


def run_jobs(
    jobs: Sequence[Job], pipe: DiffusionPipeline, model: str, folder: RunFolder, watch: Watch, suite: str
) -> Iterator[Record]:
    """Run the jobs in order; every record is yielded after it was written."""
    runner = _Runner(pipe, model, folder, watch, suite)
    for job in jobs:
        done = 0
        try:
            for record in runner.run(job):
                done += 1
                yield record
        except SparseditError as error:
            for variant in job.variants[done:]:
                yield runner.write(runner.failed(job, variant, str(error)))


def _passes(job: Job) -> int:
    edits = 1 if job.settings.way == "alongside" else 1 + len(job.variants)
    return edits + (len(job.variants) if job.settings.dense else 0)


class _Runner:
    """One pipeline and the folder its results go to."""

    def __init__(self, pipe: DiffusionPipeline, model: str, folder: RunFolder, watch: Watch, suite: str) -> None:
        self.pipe: Any = pipe
        self.model = model
        self.folder = folder
        self.watch = watch
        self.suite = suite
        self.twins: dict[tuple[int, int, int], Twin] = {}
        self.editors: dict[tuple[MaskPolicy, str], SparseEditor] = {}

    def run(self, job: Job) -> Iterator[Record]:
        settings = job.settings
        editor = self.editor(settings)
        original = load_image(job.case.original)
        request = editor.request(
            original,
            prompt=job.prompt,
            negative_prompt=settings.negative_prompt,
            task=settings.task,
            steps=settings.steps or 0,
            strength=settings.strength or 0.0,
            guidance=settings.guidance or 0.0,
            seed=job.seed,
        )
        edits = [load_edit(variant, original) for variant in job.variants]
        for variant, edit, (whole, result) in zip(
            job.variants, edits, self._edited(editor, request, job, edits), strict=True
        ):
            dense = self._dense(editor, request, job, variant, edit) if settings.dense else None
            self._save(job, variant, request, result, dense)
            yield self.write(self._record(editor, job, variant, request, whole, result, dense))

    def editor(self, settings: Settings) -> SparseEditor:
        """One editor for all jobs of the same policy: embeddings and packed weights are made once."""
        key = (settings.mask_policy(), settings.norm)
        if key not in self.editors:
            policy, norm = key
            self.editors[key] = SparseEditor(self.pipe, policy=policy, norm=norm, on_step=self._step)
        return self.editors[key]

    def _step(self, done: int, total: int) -> None:
        self.watch.step()

    def write(self, record: Record) -> Record:
        append_record(self.folder.records, record)
        self.watch.finished(record)
        return record

    def failed(self, job: Job, variant: Variant, reason: str) -> Record:
        record = self._head(job, variant)
        return record | {"status": "failed", "reason": reason, "stages": {}, "fidelity": None, "quality": None}

    def _edited(
        self, editor: SparseEditor, request: Request, job: Job, edits: list[Edit]
    ) -> Iterator[tuple[Recorded, Result]]:
        calls = editor.stages.calls(request.schedule)
        if job.settings.way == "alongside":
            self.watch.begin(f"{job.case.id}: original and {len(edits)} edits alongside", calls)
            whole, results = editor.alongside(request, edits)
            yield from ((whole, result) for result in results)
            return
        self.watch.begin(f"{job.case.id}: recording the original", calls)
        whole = editor.record_request(request)
        for variant, edit in zip(job.variants, edits, strict=True):
            self.watch.begin(f"{job.case.id}/{variant.id}: edit", calls)
            yield whole, editor.edit(edit.edited, mask=edit.mask, prompt=edit.prompt)

    def _dense(self, editor: SparseEditor, request: Request, job: Job, variant: Variant, edit: Edit) -> Result:
        calls = editor.stages.calls(request.schedule)
        self.watch.begin(f"{job.case.id}/{variant.id}: dense, for comparison", calls)
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

    def _record(
        self,
        editor: SparseEditor,
        job: Job,
        variant: Variant,
        request: Request,
        whole: Recorded,
        result: Result,
        dense: Result | None,
    ) -> Record:
        return self._head(job, variant) | {
            "status": "ok",
            "reason": result.reason,
            "way": result.way,
            "mask_source": result.plan.mask_source,
            "edit_ratio": result.plan.edit_ratio,
            "size": [request.original.shape[3], request.original.shape[2]],
            "steps_run": request.schedule.calls,
            "stages": self._stages(editor, request, whole, result, dense),
            "total": {
                "dense_s": dense.clock.total if dense else None,
                "record_s": whole.clock.total,
                "sparse_s": result.clock.total,
            },
            "memory": {"peak_bytes": peak_bytes(editor.stages.device), "cache_bytes": _cache_bytes(whole)},
            "fidelity": _fidelity(request, whole, result, dense),
            "quality": None,
            "missing": {"lpips": LPIPS_MISSING} if dense else {},
        }

    def _head(self, job: Job, variant: Variant) -> Record:
        settings = job.settings
        return {
            "schema": SCHEMA,
            "id": job.record_id(variant, self.model),
            "case": job.case.id,
            "variant": variant.id,
            "suite": self.suite,
            "edit_type": variant.edit_type,
            "model": self.model,
            "task": settings.task,
            "way": settings.way,
            "policy": settings.policy,
            "norm": settings.norm,
            "prompt": job.case.prompt,
            "original_prompt": job.prompt,
            "edit_prompt": variant.prompt,
            "prompt_changed": variant.prompt != job.case.prompt,
            "device": str(self.pipe.unet.device),
            "dtype": str(self.pipe.unet.dtype).removeprefix("torch."),
            "total": {"dense_s": None, "record_s": None, "sparse_s": None},
        }

    def _stages(
        self, editor: SparseEditor, request: Request, whole: Recorded, result: Result, dense: Result | None
    ) -> dict[str, Any]:
        twin = self._twin(editor, request)
        texts = editor.stages.texts_per_prompt(request.negative, request.schedule)
        calls = {"text": texts, "encoder": 1, "unet": editor.stages.calls(request.schedule), "decoder": 1}
        dense_clock = dense.clock if dense else result.clock if result.way == "dense" else None
        stages: dict[str, Any] = {}
        for stage, count in calls.items():
            cost = twin.schedule(stage, count)
            stages[stage] = {
                "dense": _entry(dense_clock, stage, cost, count),
                "record": _entry(whole.clock, stage, cost, count),
            }
            if result.way in ("warm", "alongside"):
                # Texts have no sites: they are encoded as ever.
                sites = result.plan.stage_sites.get(stage)
                thin = twin.schedule(stage, count, sites, new_prompt=result.plan.prompt != request.prompt)
                stages[stage]["sparse"] = _entry(result.clock, stage, thin, count)
        return stages

    def _twin(self, editor: SparseEditor, request: Request) -> Twin:
        height, width = request.original.shape[-2:]
        batch = 2 if request.schedule.guided else 1
        key = (height, width, batch)
        if key not in self.twins:
            self.twins[key] = Twin(editor.stages, height, width, batch)
        return self.twins[key]


def _fidelity(request: Request, whole: Recorded, result: Result, dense: Result | None) -> dict[str, Any]:
    """The edit against the dense one: inside the edited pixels, inside all that may change, and everywhere."""
    kept = request.original if request.task == "inpaint" or result.way == "none" else whole.picture
    outside = ~result.mask
    scores: dict[str, Any] = {"inside": None, "mask": None, "whole": None}
    if dense is not None:
        regions = {"inside": result.plan.changed.numpy(), "mask": result.mask.numpy()}
        scores = fidelity(result.image, dense.image, regions)
    equal = torch.equal(result.picture[..., outside], kept[..., outside])
    return {"protocol": PROTOCOL, **scores, "outside_equal": equal}


def heat(a: Tensor, b: Tensor) -> Image.Image:
    """Where two pictures [1, 3, H, W] in [-1, 1] differ: black 0, white a difference of 1/4 of the range or more."""
    difference = (a - b).abs().amax(1)[0] / 0.5
    return Image.fromarray((difference.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def _entry(clock: Clock | None, stage: str, cost: Cost, calls: int) -> dict[str, Any] | None:
    """A stage of a pass, all its calls together; a pass that did not run has none, a stage it did not need is empty."""
    if clock is None:
        return None
    seconds = list(clock.samples.get(stage, ()))
    if not seconds:
        return stage_entry(0, 0, [], 0)
    return stage_entry(cost.macs, cost.attention_macs, seconds, calls)


def load_edit(variant: Variant, original: Image.Image) -> Edit:
    """The pictures of a variant, opened and compared with the size of its original."""
    edited = None if variant.edited is None else as_tensor(load_image(variant.edited))
    mask = None if variant.mask is None else load_mask(variant.mask, original.size)
    return Edit(edited, mask, variant.prompt)


def _cache_bytes(whole: Recorded) -> int:
    return sum(max(cache.nbytes, cache.peak_bytes) for cache in whole.caches.values())
