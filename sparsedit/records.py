"""Records: one JSON object per case, variant and configuration, the only source of tables and reports.

A record holds what was measured, raw, and nothing derived that a table can compute. Values that do not exist are
null, never NaN. Lines are appended whole and fsynced as they come, so a run that dies loses the case in hand alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsedit.discretion import discreet, is_discreet
from sparsedit.errors import InputError

SCHEMA = 1
STAGES = ("text", "encoder", "inversion", "controlnet", "unet", "refiner", "decoder")

Record = dict[str, Any]


def stage_entry(macs: int | None, attention_macs: int | None, seconds: list[float], calls: int) -> dict[str, Any]:
    """One stage of one pass: multiply-adds of all its calls, raw seconds, and how many calls it made."""
    return {"macs": macs, "attention_macs": attention_macs, "seconds": seconds, "calls": calls}


def append_record(path: Path, record: Record) -> Record:
    """Append one record as `append_records` does, and return it as it was written."""
    [written] = append_records(path, [record])
    return written


def append_records(path: Path, records: Sequence[Record]) -> list[Record]:
    """Append records as one line each, wait until the disk has them all, and return them as they were written:
    without secrets.

    Raises ValueError for NaN or infinity in a record (a bug), InputError when the file cannot be written; it is then
    as it was before.
    """
    written, lines = list(records), [_line(record) for record in records]
    for place, line in enumerate(lines):
        if not is_discreet(line):
            written[place] = discreet(written[place])
            lines[place] = _line(written[place])
    data = "".join(lines).encode("utf-8", "backslashreplace")
    try:
        with path.open("ab", buffering=0) as stream:
            before = stream.tell()
            try:
                while data:
                    data = data[stream.write(data) or 0 :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(before)
                raise
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from error
    return written


def read_records(path: Path) -> list[Record]:
    """All records of a run, in order; what a dying process left of a last line is none.

    Raises InputError naming the line that is not a record of this schema.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; a run's folder holds a records.jsonl")
    *lines, _ = path.read_bytes().split(b"\n")  # not splitlines: text may hold line breaks of other alphabets
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def mend_records(path: Path) -> bool:
    """Take off a last line that a dying process left half written, and say whether there was one.

    Whole lines end with a line break; damage before the last one is not this function's matter. Raises InputError when
    the file cannot be written.
    """
    try:
        with path.open("r+b") as stream:
            data = stream.read()
            whole = data.rfind(b"\n") + 1
            if whole == len(data):
                return False
            stream.truncate(whole)
            os.fsync(stream.fileno())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from error
    return True


def speedup(record: Record) -> float | None:
    """Dense seconds over the edit's own seconds (its n-th edit); None where one of them did not run."""
    dense, sparse = (record["total"][f"{kind}_s"] for kind in ("dense", "sparse"))
    return dense / sparse if dense and sparse else None


def macs_ratio(record: Record, stage: str = "unet") -> float | None:
    """Dense over sparse multiply-adds of one stage (convolutions and linears); None where either is unknown."""
    passes = record["stages"].get(stage, {})
    dense, sparse = ((passes.get(kind) or {}).get("macs") for kind in ("dense", "sparse"))
    return dense / sparse if dense and sparse else None


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


def _record(line: bytes, place: str) -> Record:
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not a record ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise InputError(f"{place}: not a record of schema {SCHEMA}")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
