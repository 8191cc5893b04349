"""What a record says of an edit that was run: its stages, its seconds, its fidelity, its memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from sparsedit.calibration import plan_dense_steps
from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter, StageCost
from sparsedit.inversion import unguided
from sparsedit.masks import edit_ratio
from sparsedit.measure.clock import Clock
from sparsedit.measure.memory import peak_bytes
from sparsedit.measure.twin import Cost
from sparsedit.metrics.protocol import SPARSE_VS_DENSE
from sparsedit.metrics.quality import Judge
from sparsedit.plan import Request, plan_nothing
from sparsedit.records import SCHEMA, Record, stage_entry
from sparsedit.results import Recorded, Result
from sparsedit.settings import Settings
from sparsedit.ways import DENOISING

Entry = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """An edit that was run: for which request, upon which run, and the dense edit to compare it with.

    `ran` is the request that really ran densely where it is another one, such as one of fewer steps; `free` says that
    nothing of the original was to be kept.
    """

    request: Request
    whole: Recorded
    result: Result
    dense: Result | None
    ran: Request | None = None
    free: bool = False


@dataclass(frozen=True)
class Head:
    """What a record says of an edit whatever came of it; prompts are the case's, the original's run's, the edit's."""

    id: str
    case: str
    variant: str
    suite: str
    edit_type: str | None
    model: str
    prompts: tuple[str, str, str]


def head(names: Head, settings: Settings, pipe: Any | None) -> Record:
    """The part of a record that is there before anything has run; without a pipeline nothing is said of its place."""
    own, original, edit = names.prompts
    named = dataclasses.asdict(names)
    del named["prompts"]
    return {
        "schema": SCHEMA,
        **named,
        "task": settings.task,
        "way": settings.way,
        "policy": settings.policy,
        "norm": settings.norm,
        "prompt": own,
        "original_prompt": original,
        "edit_prompt": edit,
        "prompt_changed": edit != own,
        "device": None if pipe is None else str(pipe._execution_device),
        "dtype": None if pipe is None else str(pipe.unet.dtype).removeprefix("torch."),
        "total": {"dense_s": None, "record_s": None, "sparse_s": None},
    }


def nothing_measured(reason: str) -> Entry:
    """The rest of a record of an edit that failed."""
    return {"status": "failed", "reason": reason, "stages": {}, "fidelity": None, "quality": None}


def measurements(counter: Counter, editor: SparseEditor, judge: Judge, settings: Settings, done: Done) -> Entry:
    """The rest of a record of an edit that was run, but for its quality."""
    request, result, whole = done.request, done.result, done.whole
    return {
        "status": "ok",
        "reason": result.reason,
        "way": result.way,
        "mask_source": result.plan.mask_source,
        "dense_steps": dense_steps(settings, done),
        "dense_calls": result.dense_calls,
        "left_out_calls": result.left_out_calls,
        "lone_calls": result.lone_calls,
        "edit_ratio": result.plan.edit_ratio,
        "control": control(done),
        "size": [request.original.shape[3], request.original.shape[2]],
        "padded_size": None if request.frame.fits else list(request.frame.padded[::-1]),
        "steps_run": request.schedule.calls,
        "stages": stage_entries(counter, editor, done),
        "total": seconds(done),
        "memory": {"peak_bytes": peak_bytes(result.clock.device), "cache_bytes": cache_bytes(whole)},
        "cache": whole.shelf.facts() if whole.shelf else None,
        "fidelity": fidelity(judge, done, settings.way),
    }


def stage_entries(counter: Counter, editor: SparseEditor, done: Done) -> dict[str, Entry]:
    """By stage: `dense`, `record` and, for thin ways, `sparse`, all that the edit itself cost.

    A cold edit's `sparse` holds the coarse steps and the thin ones, and `coarse` the coarse ones alone; a prompt edit's
    coarse steps are its original's. One that ran densely and left steps out has a `sparse`, too.
    """
    request, whole, result = done.request, done.whole, done.result
    alone = result.way == "dense" and not result.left_out_calls
    dense_clock = done.dense.clock if done.dense else result.clock if alone else None
    every = counter.stages(editor, request)
    few = every
    if whole.kept is not None:
        few = counter.stages(editor, replace(request, schedule=replace(request.schedule, kept=whole.kept)))
    ran = counter.stages(editor, done.ran) if done.ran else {}
    after = request.task == "prompt"  # its cold edits follow a run of the original's; others are coarse themselves
    new_prompt = result.plan.prompt != request.prompt and (after or result.way != "cold")
    stages: dict[str, Entry] = {}
    for stage, counted in every.items():
        made = few[stage]
        recording = made.cost() + _between(done, stage, counted)
        stages[stage] = {
            "dense": _entry(dense_clock, stage, counted.cost(), counted.calls),
            "record": _entry(whole.clock, stage, recording, made.calls),
        }
        # Texts have no sites: they are encoded as ever.
        sites = result.plan.stage_sites.get(stage)
        ours, dense_calls, lone_calls = counted, 0, 0
        if stage in DENOISING:
            lone_calls, dense_calls = result.lone_calls, max(result.dense_calls - result.lone_calls, 0)
            ours = counted.over(counted.calls - result.left_out_calls - lone_calls)
        lone = _lone(counter, editor, request, lone_calls)
        thin = ours.cost(sites, new_prompt=new_prompt, dense_calls=dense_calls) + lone
        calls = ours.calls + lone_calls
        if stage in ran:
            stages[stage]["sparse"] = _entry(result.clock, stage, ran[stage].cost(), ran[stage].calls)
        elif result.way in ("warm", "alongside"):
            stages[stage]["sparse"] = _entry(result.clock, stage, thin * result.passes, calls * result.passes)
        elif result.way == "dense" and result.left_out_calls:
            stages[stage]["sparse"] = _entry(result.clock, stage, ours.cost() + lone, calls)
        elif result.way == "cold" and stage in DENOISING:
            stages[stage]["sparse"] = _entry(result.clock, stage, recording + thin, made.calls + counted.calls)
            stages[stage]["coarse"] = _coarse(result.clock, stage, made.cost(), made.calls)
        elif result.way == "cold" and after and stage in ("text", "decoder"):
            stages[stage]["sparse"] = _entry(result.clock, stage, counted.cost() + thin, counted.calls * 2)
        elif result.way == "cold":
            stages[stage]["sparse"] = _entry(result.clock, stage, counted.cost(), counted.calls)
    return stages


def _lone(counter: Counter, editor: SparseEditor, request: Request, calls: int) -> Cost:
    """What dense calls of the UNet cost that are made without a negative prompt's rows."""
    if not calls:
        return Cost()
    alone = replace(request, schedule=unguided(request.schedule))
    return counter.stages(editor, alone)["unet"].over(calls).cost()


def _between(done: Done, stage: str, counted: StageCost) -> Cost:
    """What the steps between those recorded cost a prompt edit's original, which are made without a site."""
    if done.request.task != "prompt" or done.whole.kept is None or stage not in DENOISING:
        return Cost()
    return counted.cost(plan_nothing(done.request).stage_sites[stage])


def seconds(done: Done) -> Entry:
    """Of the dense edit, the recording and the edit; a recording that was only loaded took none of its own."""
    return {
        "dense_s": done.dense.clock.total if done.dense else None,
        "record_s": None if done.whole.loaded else done.whole.clock.total,
        "sparse_s": done.result.clock.total,
    }


def dense_steps(settings: Settings, done: Done) -> Entry | None:
    """How many steps were made or recorded densely, and what they were chosen by; None where all were."""
    planned = plan_dense_steps(settings) if done.result.way in ("cold", "warm") else None
    return None if planned is None else dataclasses.asdict(planned)


def control(done: Done) -> dict[str, float] | None:
    """What a ControlNet was shown: the share of pixels whose edges an edit changed, and of those among them that were
    not edited themselves and are computed because of it."""
    plan = done.result.plan
    if done.request.control is None:
        return None
    shares = {"changed_ratio": 0.0, "outside_ratio": 0.0}
    if plan.control_changed is not None:
        outside = plan.control_changed & ~plan.changed
        shares = {"changed_ratio": edit_ratio(plan.control_changed), "outside_ratio": edit_ratio(outside)}
    return {"scale": done.request.control_scale, **shares}


def fidelity(judge: Judge, done: Done, asked: str) -> Entry:
    """The edit against the dense one: inside the edited pixels, inside all that may change, and everywhere.

    `outside_equal` says whether what was not to change did not; None for a sdedit asked for cold, which has nothing to
    keep, not even where it ran densely instead.
    """
    result = done.result
    whole = done.request.task == "inpaint" or result.way == "none"
    kept = done.request.original if whole else done.whole.picture
    if done.request.task in ("pan", "rotate"):
        kept = result.plan.picture
    scores: Entry = {"inside": None, "mask": None, "whole": None}
    if done.dense is not None:
        regions = {"inside": result.plan.changed.numpy(), "mask": result.mask.numpy()}
        scores = judge.fidelity(result.image, done.dense.image, regions)
    equal = bool(((result.picture == kept).flatten(0, -3).all(0) | result.mask).all())
    nothing_kept = done.free or (asked == "cold" and not whole and done.request.task != "prompt")
    return {"protocol": SPARSE_VS_DENSE.name, **scores, "outside_equal": None if nothing_kept else equal}


def cache_bytes(whole: Recorded) -> int:
    """What the activations of a run took, at their largest."""
    return sum(max(cache.nbytes, cache.peak_bytes) for cache in whole.caches.values())


def _entry(clock: Clock | None, stage: str, cost: Cost, calls: int) -> Entry | None:
    """A stage of a pass, all its calls together; a pass that did not run has none, a stage it did not need is empty."""
    if clock is None:
        return None
    samples = list(clock.samples.get(stage, ()))
    if not samples:
        return stage_entry(0, 0, [], 0)
    return stage_entry(cost.macs, cost.attention_macs, samples, calls)


def _coarse(clock: Clock, stage: str, cost: Cost, calls: int) -> Entry:
    """The first of a cold edit's two passes: a UNet's is one sample, what is called beside it has one for each call."""
    first = 1 if stage == "unet" else calls
    return stage_entry(cost.macs, cost.attention_macs, clock.samples[stage][:first], calls)
