"""The form of what a run's folder holds, for readers who did not write it.

A folder may come from a stranger or from a damaged disk, and tables rely on what stands in it. So the kinds of all
values that a reader uses are checked when a run is opened, and names that lead to pictures must stay in its folder;
a key that is unknown here is left alone, for later versions write more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sparsedit.errors import InputError, sentences
from sparsedit.records import Record, read_records

_MOST = 5
"""Of many faults the first few are named."""


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text or not path.parts:
        raise ValueError("must be a path inside the run's folder")
    return text


def _name(text: str) -> str:
    if len(PurePosixPath(_inside(text)).parts) != 1:
        raise ValueError("must be one name, without a slash")
    return text


Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_name)]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Pass(_Form):
    macs: int | None = None
    attention_macs: int | None = None
    seconds: list[Number] = []
    calls: int = 0


class _Total(_Form):
    dense_s: Number | None
    record_s: Number | None
    sparse_s: Number | None


class _Memory(_Form):
    peak_bytes: int | None = None
    cache_bytes: int | None = None


class _Scores(_Form):
    """Of one region, or the quality of an edit."""

    psnr: Number | None = None
    ssim: Number | None = None
    mse: Number | None = None
    lpips: Number | None = None
    clip: Number | None = None
    clip_edited: Number | None = None
    structure: Number | None = None
    identical: bool | None = None


class _Quality(_Scores):
    protocol: str | None = None


class _Fidelity(_Form):
    protocol: str | None = None
    inside: _Scores | None = None
    mask: _Scores | None = None
    whole: _Scores | None = None
    outside_equal: bool | None = None


class _DenseSteps(_Form):
    count: int
    total: int
    fidelity: Number | None
    expected: Number | None


class _Bench(_Form):
    cell: str
    configuration: str
    way: str
    track: str | None


class RecordForm(_Form):
    """What a reader relies on in a record."""

    id: str
    case: Name
    variant: Name
    status: Literal["ok", "failed"]
    model: str
    task: str
    way: str
    total: _Total
    stages: dict[str, dict[str, _Pass | None]]
    reason: str | None = None
    edit_type: str | None = None
    suite: str | None = None
    policy: str | None = None
    norm: str | None = None
    prompt: str | None = None
    original_prompt: str | None = None
    edit_prompt: str | None = None
    prompt_changed: bool | None = None
    device: str | None = None
    dtype: str | None = None
    mask_source: str | None = None
    edit_ratio: Number | None = None
    size: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    steps_run: int | None = None
    memory: _Memory | None = None
    fidelity: _Fidelity | None = None
    quality: _Quality | None = None
    missing: dict[str, str] | None = None
    dense_steps: _DenseSteps | None = None
    bench: _Bench | None = None
    images: Annotated[str, AfterValidator(_inside)] | None = None


class _Processor(_Form):
    name: str | None = None
    cores: int | None = None


class _Gpu(_Form):
    name: str


class EnvironmentForm(_Form):
    """What a reader relies on in environment.json."""

    processor: _Processor | None = None
    gpus: list[_Gpu] | None = None
    packages: dict[str, str | None] | None = None


class SessionForm(_Form):
    """What a reader relies on in a line of sessions.jsonl."""

    seconds: Number
    workers: int
    loading: Number
    busy: Number
    model: Number
    scores: Number
    ways: dict[str, Number]


def read_run(path: Path, form: type[BaseModel] = RecordForm) -> list[Record]:
    """All records of the run whose records.jsonl is at `path`, in order, each of the form that readers rely on.

    Raises InputError as `read_records`, and naming the lines and values that are of another form.
    """
    records = read_records(path)
    faults: list[str] = []
    for number, record in enumerate(records, 1):
        faults += [f"line {number}: {fault}" for fault in _faults(record, form)]
        if len(faults) >= _MOST:
            break
    if faults:
        raise InputError("\n  ".join([f"{path} holds what is no record:", *faults[:_MOST]]))
    return records


def read_environment(run: Path) -> dict[str, Any]:
    """What a run says of its machine; nothing where the file is gone, for tables need it not.

    Raises InputError for a file that does not describe a machine.
    """
    path = run / "environment.json"
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not isinstance(facts, dict):
        raise InputError(f"{path} does not describe a machine")
    if faults := _faults(facts, EnvironmentForm):
        raise InputError("\n  ".join([f"{path} does not describe a machine:", *faults[:_MOST]]))
    return facts


def _faults(value: Mapping[str, Any], form: type[BaseModel]) -> list[str]:
    try:
        form.model_validate(value)
    except ValidationError as error:
        return sentences(error, form)
    return []
