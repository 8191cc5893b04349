"""What comes of one way of a task: data alone, which another process can hand over. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from sparsedit.records import Record

Files = Mapping[str, bytes]
"""PNG files by name, without their ending."""


@dataclass(frozen=True)
class Seconds:
    """What a worker spent on an outcome: `busy` in all; of it in models at their stages, in scoring, and in loading."""

    busy: float = 0.0
    model: float = 0.0
    scores: float = 0.0
    loading: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Outcome:
    """A record, the pictures of its way, and those that the ways of a case share."""

    record: Record
    pictures: Files = field(default_factory=dict)
    shared: Files = field(default_factory=dict)
    seconds: Seconds = Seconds()
