"""Which part of a suite this process runs, where many share it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sparsedit.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1."""

    index: int = 1
    count: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item: shards differ by one item at most, and each has its share of every type."""
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_shard(said: str | None, variables: Mapping[str, str] = os.environ) -> Shard:
    """The shard as typed (`2/4`), or the one that SLURM's job array or a launcher of ranks gave this process.

    Raises InputError for what is no shard.
    """
    if said is not None:
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", said)
        if match is None:
            raise InputError(f"--shard {said!r} is no part of a whole: use I/N with I from 1 to N, as in 2/4")
        return _checked(int(match[1]), int(match[2]), f"--shard {said}")
    if "SLURM_ARRAY_TASK_ID" in variables:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
        task, first, step, count = (_number(name, variables) for name in names)
        if task is None or count is None:
            raise InputError("SLURM_ARRAY_TASK_ID is set and SLURM_ARRAY_TASK_COUNT is not; say --shard I/N")
        return _checked((task - (first or 0)) // (step or 1) + 1, count, "SLURM's job array")
    rank, world = (_number(name, variables) for name in ("RANK", "WORLD_SIZE"))
    if rank is None:
        return Shard()
    if world is None:
        raise InputError("RANK is set and WORLD_SIZE is not; say --shard I/N")
    return _checked(rank + 1, world, "RANK and WORLD_SIZE")


def _number(name: str, variables: Mapping[str, str]) -> int | None:
    text = variables.get(name)
    if text is not None and not text.isdigit():
        raise InputError(f"{name} is {text!r}, which is no number; say --shard I/N")
    return None if text is None else int(text)


def _checked(index: int, count: int, source: str) -> Shard:
    if not 1 <= index <= count:
        raise InputError(f"{source} names part {index} of {count}; parts count from 1 to {max(count, 1)}")
    return Shard(index, count)
