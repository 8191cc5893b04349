"""What memory a run will take, said before anything of its model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsedit.commands.work import Work
    from sparsedit.report.text import Cell


def memory_need(work: Work, entries: Sequence[dict[str, Cell]]) -> dict[str, Any]:
    """Bytes of the model, of its largest call and of what it remembers, for the plan's largest picture.

    `missing` says why there are none: a model whose configuration is not on this machine, for instance. Raises
    CacheError for recordings that their budget has no room for.
    """
    from sparsedit.calibration import plan_dense_steps
    from sparsedit.engines.foresight import largest_recording
    from sparsedit.engines.pipelines import empty_models
    from sparsedit.errors import SparseditError
    from sparsedit.measure.estimate import estimate_memory
    from sparsedit.models.placement import dtype_reason, resolve_device
    from sparsedit.models.presets import preset_and_file

    settings = work.settings
    sizes = [(int(entry["height"] or 0), int(entry["width"] or 0)) for entry in entries]
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    try:
        models = empty_models(work.model, settings)
        pipe: Any = models[0]
        need = estimate_memory(pipe, height, width, guided=(settings.guidance or 0) > 1)
        preset, _ = preset_and_file(work.model)
        reason = dtype_reason(settings.dtype, resolve_device(settings.device), preset)
    except SparseditError as error:
        return {"missing": str(error)}
    few = [plan_dense_steps(job.settings) for job in work.jobs]
    kept = [plan.count if plan else job.settings.calls for plan, job in zip(few, work.jobs, strict=True)]
    steps = 1 if settings.way == "alongside" else max(kept)
    recorded = largest_recording(work.jobs, *models)
    return {
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "dtype_reason": reason,
        "weight_bytes": sum(need.weights.values()),
        "peak_bytes": need.peak,
        "cache_bytes": need.recording(steps) if recorded is None else recorded,
        "missing": None,
    }


def said(need: dict[str, Any], work: Work) -> str:
    """The need in a sentence."""
    from sparsedit.report.numbers import size_of

    if need["missing"]:
        return f"memory: not known ({need['missing']})"
    without = ", without its refiner" if work.settings.refiner else ""
    return (
        f"memory: about {size_of(need['peak_bytes'])}{without} (weights {size_of(need['weight_bytes'])} in "
        f"{need['dtype']}: {need['dtype_reason']}), and {size_of(need['cache_bytes'])} of remembered activations"
    )
