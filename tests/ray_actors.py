"""Actors that make records of nothing, in a module of their own that imports no torch: processes start with it."""

from __future__ import annotations

import os
import signal

from sparsedit.bench.outcome import Outcome
from sparsedit.bench.plan import Task
from sparsedit.errors import ModelError


class Stub:
    """Does as a case's id says."""

    def process(self) -> int:
        return os.getpid()

    def run(self, task: Task) -> list[Outcome]:
        match task.edit.case:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "model":
                raise ModelError("there is no such model")
            case "defect":
                raise ZeroDivisionError("a defect")
        records = ({"schema": 1, "id": task.record_id(way), "status": "ok", "bench": {"way": way}} for way in task.ways)
        return [Outcome(record) for record in records]


class Unable(Stub):
    """Does not start."""

    def __init__(self) -> None:
        raise ModuleNotFoundError("No module named 'sparsedit'")
