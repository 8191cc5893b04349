"""From a subject to a record of what it costs: what was counted and measured, raw, and nothing derived.

    "calls": {stage: {"dense": {macs, attention_macs, least_bytes, seconds, peak_bytes}, "sparse": {...},
                      "dtype", "record_s", "cache_bytes"}}          one call of the stage's model, in its steady state
    "edit":  {"stages": {stage: {"dense": {macs, attention_macs, least_bytes, seconds, calls}, "sparse": {...}}},
              "total": {"dense_s": [...], "record_s", "sparse_s": [...]}, "memory": {...}}    as its users get it

Multiply-adds are counted on the meta device, so a record without seconds costs no run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.editor import BREAK_EVEN, SparseEditor
from sparsedit.errors import InputError, SettingsError
from sparsedit.measure.ceilings import ceilings
from sparsedit.measure.rounds import OnRound
from sparsedit.measure.twin import Twin
from sparsedit.measure.warnings import busy, doubts
from sparsedit.models.placement import DTYPES
from sparsedit.plan import Plan, Request, plan_edit
from sparsedit.profiling.calls import Sampling, StageCall, stage_model, time_call, time_text
from sparsedit.profiling.counts import StageCount, sites_of, stages_of
from sparsedit.profiling.edits import TOTAL, EditRuns, expected_calls, has_new_prompt, time_edit
from sparsedit.profiling.subjects import Subject
from sparsedit.settings import MaskPolicy, Settings

SCHEMA = 1
KINDS = ("dense", "sparse")

Tell = Callable[[str], None]


class Profiler:
    """Profiles edits with one pipeline, which may be on the meta device when nothing is timed.

    `stages` are the ones to profile, None for all; with all of them the whole edit is profiled too. `batch` is that of
    a UNet call, None for what guidance makes of one picture. `sampling` None counts and times nothing. `load` is the
    machine's load before this program did anything, None where that is not known.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        model: str,
        *,
        stages: Sequence[str] | None = None,
        batch: int | None = None,
        sampling: Sampling | None = None,
        load: float | None = None,
        refresh_ceilings: bool = False,
        tell: Tell = lambda words: None,
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.wanted = stages
        self.batch = batch
        self.sampling = sampling
        self.load = load
        self.refresh = refresh_ceilings
        self.tell = tell
        self.editors: dict[tuple[MaskPolicy, str], SparseEditor] = {}
        self.twins: dict[tuple[int, int, int], Twin] = {}
        self.ceilings: dict[str, dict[str, Any]] = {}

    def profile(self, subject: Subject) -> dict[str, Any]:
        """The record of one edit. Raises InputError for an edit that changes nothing or does not fit the model."""
        editor = self._editor(subject.settings)
        request = _request(editor, subject)
        plan = plan_edit(request, subject.edit, editor.policy)
        if plan.sites.empty:
            raise InputError(f"{subject.case}/{subject.variant} changes nothing, so there is nothing to profile")
        guided = 2 if editor.stages.guided(request.schedule) else 1
        batch = self.batch or guided
        twin = self._twin(editor, plan, batch)
        record = self._head(subject, editor, plan, batch)
        counts = self._count(editor, plan, twin, new_prompt=has_new_prompt(request, subject.edit))
        calls = {stage: self._call(editor, plan, twin, stage, count) for stage, count in counts.items()}
        record["calls"] = calls
        record["edit"] = None
        if list(calls) == stages_of(twin) and batch == guided:
            record["edit"] = self._edit(editor, request, subject, counts)
        record["ceilings"], said = self._ceilings(calls)
        record["warnings"] = [*self._doubts(record), *said, *_uncounted(calls), *_too_large(record["sites"])]
        return record

    def _editor(self, settings: Settings) -> SparseEditor:
        """One editor for all subjects of the same policy; it runs every edit thinly, however large."""
        key = (settings.mask_policy(), settings.norm)
        if key not in self.editors:
            policy, norm = key
            self.editors[key] = SparseEditor(self.pipe, policy=policy, norm=norm, break_even=1.0)
        return self.editors[key]

    def _head(self, subject: Subject, editor: SparseEditor, plan: Plan, batch: int) -> dict[str, Any]:
        height, width = plan.hole.shape
        settings = subject.settings
        return {
            "schema": SCHEMA,
            "case": subject.case,
            "variant": subject.variant,
            "model": self.model,
            "task": settings.task,
            "policy": settings.policy,
            "norm": settings.norm,
            "size": [width, height],
            "padded_size": None if plan.sites.size == (height, width) else list(plan.sites.size[::-1]),
            "batch": batch,
            "edit_ratio": plan.edit_ratio,
            "sites": plan.sites.fraction(editor.stages.latent_size(*plan.sites.size)),
            "steps": settings.steps,
            "strength": settings.strength,
            "guidance": settings.guidance,
            "steps_run": settings.calls,
            "device": str(editor.stages.device),
            "load": self.load,
            "sampling": None if self.sampling is None else dataclasses.asdict(self.sampling),
        }

    def _count(self, editor: SparseEditor, plan: Plan, twin: Twin, *, new_prompt: bool) -> dict[str, StageCount]:
        """What one call of every wanted stage counts."""
        counts = {}
        have = stages_of(twin)
        if missing := [stage for stage in self.wanted or () if stage not in have]:
            raise SettingsError(f"model {self.model} has no stage {missing[0]!r}; it has {', '.join(have)}")
        for stage in self.wanted or have:
            self.tell(f"counting {stage}")
            if stage == "text":
                counts[stage] = StageCount.of_text(twin, editor.stages.pipe.dtype)
            else:
                dtype = next(stage_model(editor.stages, stage).parameters()).dtype
                counts[stage] = StageCount.of(twin, stage, sites_of(plan, stage), dtype, new_prompt=new_prompt)
        return counts

    def _call(self, editor: SparseEditor, plan: Plan, twin: Twin, stage: str, count: StageCount) -> dict[str, Any]:
        """One call of a stage as the record has it, timed where that is wanted."""
        entry = count.entry()
        if self.sampling is None:
            return entry
        if stage == "text":
            entry["dense"]["seconds"] = time_text(editor.stages, self.sampling, self._round("one prompt"))
            return entry
        _, args, kwargs = twin.calls[stage]
        call = StageCall(stage_model(editor.stages, stage), args, kwargs, editor.packed)
        timed = time_call(call, sites_of(plan, stage), self.sampling, self._round(f"one call of the {stage}"))
        return entry | timed | {kind: entry[kind] | timed[kind] for kind in KINDS}

    def _edit(
        self, editor: SparseEditor, request: Request, subject: Subject, counts: Mapping[str, StageCount]
    ) -> dict[str, Any]:
        """The whole edit: what its calls count together, and its seconds where they are taken."""
        if self.sampling is None:
            timed: dict[str, Any] = {"calls": expected_calls(editor.stages, request, subject.edit)}
        else:
            runs = EditRuns(editor, request, subject.edit)
            timed = time_edit(runs, self.sampling, self._round("the whole edit"))
            editor.recorded = None
        seconds = timed.get("seconds", {"dense": {}, "sparse": {}})
        stages: dict[str, Any] = {stage: {} for stage in counts}
        for kind in KINDS:
            for stage, count in counts.items():
                calls = timed["calls"][kind].get(stage, 0)
                together = count.together(calls, thin=kind == "sparse")
                stages[stage][kind] = together.entry() | {"calls": calls, "seconds": seconds[kind].get(stage, [])}
        total = {f"{kind}_s": seconds[kind].get(TOTAL, []) for kind in KINDS} | {"record_s": timed.get("record_s")}
        return {"stages": stages, "total": total, "memory": timed.get("memory")}

    def _twin(self, editor: SparseEditor, plan: Plan, batch: int) -> Twin:
        height, width = plan.sites.size
        key = (height, width, batch)
        if key not in self.twins:
            self.twins[key] = Twin(editor.stages, height, width, batch)
        return self.twins[key]

    def _ceilings(self, calls: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
        """The ceilings in every dtype that a stage ran in, and what there is to say about them."""
        if self.sampling is None:
            return None, []
        said: list[str] = []
        for name in {call["dtype"] for call in calls.values()} - set(self.ceilings):
            self.tell(f"the machine's ceilings in {name}")
            found, warnings = ceilings(self.pipe.device, DTYPES[name], load=self.load, refresh=self.refresh)
            self.ceilings[name] = dataclasses.asdict(found)
            said += warnings
        return self.ceilings, said

    def _doubts(self, record: Mapping[str, Any]) -> list[str]:
        if self.sampling is None:
            return []
        said = busy(self.load, os.cpu_count())
        samples = {
            f"the {kind} {stage} call": call[kind]["seconds"]
            for stage, call in record["calls"].items()
            for kind in KINDS
            if call[kind]
        }
        if record["edit"]:
            samples |= {f"the {kind} edit": record["edit"]["total"][f"{kind}_s"] for kind in KINDS}
        return said + doubts(samples, warmup=self.sampling.warmup)

    def _round(self, what: str) -> OnRound:
        return lambda number, total: self.tell(f"timing {what}, round {number} of {total}")


def _request(editor: SparseEditor, subject: Subject) -> Request:
    settings = subject.settings
    return editor.request(
        subject.original,
        prompt=subject.prompt,
        negative_prompt=settings.negative_prompt,
        task=settings.task,
        steps=settings.steps or 0,
        strength=settings.strength or 0.0,
        guidance=settings.guidance or 0.0,
        seed=subject.seed,
        control_scale=settings.control_scale,
    )


def _uncounted(calls: Mapping[str, Any]) -> list[str]:
    found = {name for call in calls.values() for kind in KINDS if call[kind] for name in call[kind]["uncounted"]}
    if not found:
        return []
    return [f"multiply-adds are too few: these operators multiply and have no known count: {', '.join(sorted(found))}"]


def _too_large(sites: float) -> list[str]:
    if sites <= BREAK_EVEN:
        return []
    return [
        f"the edit reaches {sites:.0%} of the latent sites; `sparsedit edit` runs one of more than {BREAK_EVEN:.0%} "
        "densely, whatever the seconds here say"
    ]
