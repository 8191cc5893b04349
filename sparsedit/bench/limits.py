"""Limits that a bench must reach, from a YAML file: for each way, the least that the mean of a value may be.

version: 1
limits:
  warm: {inside_psnr: 35, macs_ratio: 8}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparsedit.bench.ways import check_ways
from sparsedit.documents import read_document
from sparsedit.errors import SettingsError, ThresholdError, did_you_mean
from sparsedit.report.bench import COLUMNS, Tables

Limits = Mapping[str, Mapping[str, float]]

_Least = Annotated[dict[str, float], Field(min_length=1)]


class _LimitsEntry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    version: Literal[1]
    limits: Annotated[dict[str, _Least], Field(min_length=1)]


def load_limits(path: Path) -> Limits:
    """The limits in a file. Raises SettingsError for an unknown way or value."""
    entry = read_document(path, SettingsError).validate(_LimitsEntry)
    check_ways(list(entry.limits))
    for least in entry.limits.values():
        for name in least:
            if name not in COLUMNS:
                hint = did_you_mean(name, COLUMNS) or f"; there are {', '.join(COLUMNS)}"
                raise SettingsError(f"{path}: unknown value {name!r}{hint}")
    return entry.limits


def check_limits(shown: Tables, limits: Limits) -> None:
    """Raise ThresholdError naming every limit that the mean over all edits of some configuration does not reach.

    Where there are limits for a way, none of its edits may fail, and none may change a pixel outside its mask.
    """
    faults = []
    for way, least in limits.items():
        lines = [line for line in shown.lines if line.way == way and line.group == "all"]
        if not lines:
            faults.append(f"{way}: not run")
        for line in lines:
            for name, limit in least.items():
                mean = line.means.get(name)
                if mean is None:
                    faults.append(f"{line.name}: no edit has {name}")
                elif mean.mean < limit:
                    faults.append(f"{line.name}: {name} is {mean.mean:.6g}, less than {limit:g}")
            if line.failed:
                faults.append(f"{line.name}: {line.failed} of the edits failed")
            if line.touched:
                faults.append(f"{line.name}: in {line.touched} of the edits pixels outside the mask changed")
    if faults:
        raise ThresholdError("limits not reached: " + "; ".join(faults))
