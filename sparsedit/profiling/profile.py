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
from sparsedit.engines.editors import request_of
from sparsedit.errors import InputError, SettingsError
from sparsedit.measure.ceilings import ceilings
from sparsedit.measure.rounds import OnRound
from sparsedit.measure.twin import Twin
from sparsedit.measure.warnings import busy, doubts
from sparsedit.models.placement import DTYPES
from sparsedit.plan import Plan, Request, plan_edit
from sparsedit.profiling.calls import Sampling, StageCall, time_call, time_text
from sparsedit.profiling.counts import StageCount, sites_of
from sparsedit.profiling.edits import TOTAL, EditRuns, expected_calls, has_new_prompt, time_edit
from sparsedit.profiling.models import REFINER, Models
from sparsedit.profiling.subjects import Subject
from sparsedit.settings import MaskPolicy, Settings

SCHEMA = 1
KINDS = ("dense", "sparse")

Tell = Callable[[str], None]


class Profiler:
    """Profiles edits with one pipeline, which may be on the meta device when nothing is timed.

    A `refiner`, a pipeline of its own on the same device, finishes what the first one begins. `stages` are the ones to
    profile, None for all; with all of them the whole edit is profiled too. `batch` is that of a UNet call, None for
    what guidance makes of one picture. `sampling` None counts and times nothing. `load` is the machine's load before
    this program did anything, None where that is not known.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        model: str,
        *,
        refiner: DiffusionPipeline | None = None,
        stages: Sequence[str] | None = None,
        batch: int | None = None,
        sampling: Sampling | None = None,
        load: float | None = None,
        refresh_ceilings: bool = False,
        tell: Tell = lambda words: None,
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.refiner = refiner
        self.wanted = stages
        self.batch = batch
        self.sampling = sampling
        self.load = load
        self.refresh = refresh_ceilings
        self.tell = tell
        self.editors: dict[tuple[MaskPolicy, str], SparseEditor] = {}
        self.twins: dict[tuple[object, ...], Twin] = {}
        self.ceilings: dict[str, dict[str, Any]] = {}

    def profile(self, subject: Subject) -> dict[str, Any]:
        """The record of one edit. Raises InputError for an edit that changes nothing or does not fit the model."""
        editor = self._editor(subject.settings)
        request = request_of(editor, subject.settings, subject.original, subject.prompt, subject.seed)
        plan = plan_edit(request, subject.edit, editor.policy)
        if plan.sites.empty:
            raise InputError(f"{subject.case}/{subject.variant} changes nothing, so there is nothing to profile")
        models = Models(editor, request, self.batch, self.twins)
        record = self._head(subject, editor, plan, self.batch or models.guided_batch)
        counts = self._count(models, plan, new_prompt=has_new_prompt(request, subject.edit))
        calls = {stage: self._call(editor, plan, models, stage, count) for stage, count in counts.items()}
        record["calls"] = calls
        record["edit"] = None
        if set(calls) == set(models.stages) and record["batch"] == models.guided_batch:
            record["edit"] = self._edit(editor, request, subject, counts)
        record["ceilings"], said = self._ceilings(calls)
        said += _uncounted(calls) + _too_large(editor.stages.reach(plan.sites))
        record["warnings"] = self._doubts(record) + said
        return record

    def _editor(self, settings: Settings) -> SparseEditor:
        """One editor for all subjects of the same policy; it runs every edit thinly, however large."""
        key = (settings.mask_policy(), settings.norm)
        if key not in self.editors:
            policy, norm = key
            options: dict[str, Any] = {"policy": policy, "norm": norm, "refiner": self.refiner}
            self.editors[key] = SparseEditor(self.pipe, break_even=1.0, **options)
        return self.editors[key]

    def _head(self, subject: Subject, editor: SparseEditor, plan: Plan, batch: int) -> dict[str, Any]:
        height, width = plan.hole.shape
        settings = subject.settings
        return {
            "schema": SCHEMA,
            "case": subject.case,
            "variant": subject.variant,
            "model": self.model,
            "refiner": settings.refiner,
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

    def _count(self, models: Models, plan: Plan, *, new_prompt: bool) -> dict[str, StageCount]:
        """What one call of every wanted stage counts."""
        counts: dict[str, StageCount] = {}
        have = models.stages
        if missing := [stage for stage in self.wanted or () if stage not in have]:
            name = f"; name one with --{missing[0]}" if missing[0] in (REFINER, "controlnet") else ""
            raise SettingsError(f"model {self.model} has no stage {missing[0]!r}; it has {', '.join(have)}{name}")
        for stage in self.wanted or have:
            self.tell(f"counting {stage}")
            one = have[stage]
            if one is None:
                counts[stage] = StageCount.of_text(models.texts(), models.pipelines[0].pipe.dtype)
            else:
                dtype = next(one.model.parameters()).dtype
                counts[stage] = StageCount.of(one.twin, one.name, sites_of(plan, stage), dtype, new_prompt=new_prompt)
        return counts

    def _call(self, editor: SparseEditor, plan: Plan, models: Models, stage: str, count: StageCount) -> dict[str, Any]:
        """One call of a stage as the record has it, timed where that is wanted."""
        entry, one = count.entry(), models.stages[stage]
        if self.sampling is None:
            return entry
        if one is None:
            entry["dense"]["seconds"] = time_text(models.pipelines, self.sampling, self._round("one prompt"))
            return entry
        _, args, kwargs = one.twin.calls[one.name]
        call = StageCall(one.model, args, kwargs, editor.packed)
        timed = time_call(call, sites_of(plan, stage), self.sampling, self._round(f"one call of the {stage}"))
        return entry | timed | {kind: entry[kind] | timed[kind] for kind in KINDS}

    def _edit(
        self, editor: SparseEditor, request: Request, subject: Subject, counts: Mapping[str, StageCount]
    ) -> dict[str, Any]:
        """The whole edit: what its calls count together, and its seconds where they are taken."""
        if self.sampling is None:
            timed: dict[str, Any] = {"calls": expected_calls(editor, request, subject.edit)}
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


def _uncounted(calls: Mapping[str, Any]) -> list[str]:
    found = {name for call in calls.values() for kind in KINDS if call[kind] for name in call[kind]["uncounted"]}
    if not found:
        return []
    return [f"multiply-adds are too few: these operators multiply and have no known count: {', '.join(sorted(found))}"]


def _too_large(reach: float) -> list[str]:
    if reach <= BREAK_EVEN:
        return []
    return [
        f"the edit reaches {reach:.0%} of the UNet's sites; `sparsedit edit` runs one of more than {BREAK_EVEN:.0%} "
        "densely, whatever the seconds here say"
    ]
