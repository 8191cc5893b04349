"""Records made by hand, for whatever shows them: round numbers whose ratios are known."""

from __future__ import annotations

from typing import Any

from sparsedit.records import Record, stage_entry

DENSE_S, RECORD_S, SPARSE_S = 8.0, 9.0, 1.0
ENVIRONMENT = {"processor": {"name": "A processor", "cores": 2}, "gpus": [], "packages": {"torch": "9.9.9"}}

# Seconds of each stage, dense and sparse; they add up to the totals.
_SECONDS = {"text": (0.5, 0.0), "encoder": (0.5, 0.25), "unet": (6.0, 0.5), "decoder": (1.0, 0.25)}


def record(case: str = "meadow", variant: str = "house", **changes: Any) -> Record:
    """A record of an edit that went well: n-th edit 8 times, first edit 0.8 times, UNet with a tenth of the MACs."""
    return {
        "schema": 1,
        "id": "0123456789abcdef",
        "case": case,
        "variant": variant,
        "suite": "demo",
        "edit_type": "add object",
        "model": "demo",
        "task": "sdedit",
        "way": "alongside",
        "policy": "tight",
        "status": "ok",
        "reason": None,
        "prompt": "a meadow",
        "original_prompt": "a meadow",
        "edit_prompt": "a meadow",
        "prompt_changed": False,
        "device": "cpu",
        "dtype": "float32",
        "mask_source": "difference",
        "edit_ratio": 0.0172,
        "size": [512, 256],
        "steps_run": 14,
        "stages": {stage: _stage(*seconds) for stage, seconds in _SECONDS.items()},
        "total": {"dense_s": DENSE_S, "record_s": RECORD_S, "sparse_s": SPARSE_S},
        "memory": {"peak_bytes": 2_000_000_000, "cache_bytes": 80_000_000},
        "fidelity": fidelity(40.0, 50.0),
        "quality": None,
        "missing": {},
    } | changes


def failed(reason: str = "it did not fit", **changes: Any) -> Record:
    """A record of a case that could not run: it has no measurements."""
    whole = record(**changes)
    for name in ("edit_ratio", "size", "steps_run", "memory", "mask_source", "missing"):
        del whole[name]
    nothing = {"dense_s": None, "record_s": None, "sparse_s": None}
    return whole | {"status": "failed", "reason": reason, "stages": {}, "fidelity": None, "total": nothing}


def benched(case: str, way: str = "warm", made: Any = record, **changes: Any) -> Record:
    """A record of a bench, its id made of case and way."""
    bench = {"cell": "", "configuration": "0" * 16, "way": way, "track": "mask-derived"}
    changes = {"id": f"{case}-{way}", "way": way, "bench": bench, "original_prompt": "a meadow"} | changes
    return made(case=case, variant="edit", **changes)


def fidelity(inside: float | None, whole: float | None) -> dict[str, Any]:
    return {
        "protocol": "sparse-vs-dense",
        "inside": _scores(inside),
        "mask": _scores(inside),
        "whole": _scores(whole),
        "outside_equal": True,
    }


def _scores(psnr: float | None) -> dict[str, Any]:
    return {"psnr": psnr, "ssim": 0.99, "lpips": None, "identical": psnr is None}


def _stage(dense: float, sparse: float) -> dict[str, Any]:
    entries = {"dense": stage_entry(10_000_000_000, 0, [dense / 2, dense / 2], 2)}
    entries["record"] = stage_entry(10_000_000_000, 0, [dense], 2)
    entries["sparse"] = stage_entry(1_000_000_000, 0, [sparse], 2) if sparse else stage_entry(0, 0, [], 0)
    return entries
