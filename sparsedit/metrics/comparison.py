"""A comparison: values of many cases, their means with intervals, all together and for each type of edit.

The cases are pictures against others, or the edits of a run against those of another; then a value is a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsedit.errors import SettingsError, ThresholdError, did_you_mean
from sparsedit.metrics.interval import Mean, mean_interval
from sparsedit.metrics.threshold import Threshold

ALL = "all"


@dataclass(frozen=True)
class Case:
    """One case: its values, null where there is none, and why; `reason` where it could not be compared at all.

    `equal` names the PSNRs that are null since the pixels they look at are equal, `way` what the case is one of several
    of, of the same edit.
    """

    name: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    edit_type: str | None = None
    way: str | None = None
    identical: bool = False
    equal: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The means of some cases; `left_out` counts, for each column, those without a value that are not equal."""

    name: str
    count: int
    means: Mapping[str, Mean | None]
    left_out: Mapping[str, int]
    identical: int


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison shows. `what` says whose values these are: a protocol's, or differences."""

    what: str
    columns: tuple[str, ...]
    cases: tuple[Case, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.reason)

    def groups(self) -> tuple[Group, ...]:
        """All cases, then those of each way where there are several, else those of each type where there are several.

        Types are not told apart among several ways, whose means would say more about the ways.
        """
        ways = [case.way for case in self.cases]
        kinds = ways if len({*ways} - {None}) > 1 else [case.edit_type for case in self.cases]
        named = [(ALL, self.cases)]
        if len({*kinds} - {None}) > 1:
            each = dict.fromkeys(kind for kind in kinds if kind)
            pairs = list(zip(self.cases, kinds, strict=True))
            named += [(kind, tuple(case for case, own in pairs if own == kind)) for kind in each]
        return tuple(self._group(name, cases) for name, cases in named)

    def document(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "schema": 1,
            "compares": self.what,
            "cases": [_case_entry(case) for case in self.cases],
            "means": [_group_entry(group) for group in self.groups()],
            "missing": dict(self.missing),
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
        }

    def _group(self, name: str, cases: Sequence[Case]) -> Group:
        done = [case for case in cases if not case.reason]
        values = {column: [case.values.get(column) for case in done] for column in self.columns}
        return Group(
            name=name,
            count=len(done),
            means={
                column: mean_interval([one for one in known if one is not None]) for column, known in values.items()
            },
            left_out={column: _unexplained(column, done) for column in self.columns},
            identical=sum(case.identical for case in done),
        )


def check_thresholds(thresholds: Iterable[Threshold], columns: Sequence[str], missing: Mapping[str, str]) -> None:
    """Raise SettingsError for a threshold on a value that there is not, or that cannot be computed on this machine."""
    for threshold in thresholds:
        if threshold.name not in columns:
            hint = did_you_mean(threshold.name, columns) or f"; there are {', '.join(columns)}"
            raise SettingsError(f"--fail-if {threshold}: {threshold.name!r} is not compared here{hint}")
        if threshold.name in missing:
            raise SettingsError(f"--fail-if {threshold} cannot be judged: {missing[threshold.name]}")


def judge(comparison: Comparison, thresholds: Iterable[Threshold]) -> None:
    """Raise ThresholdError naming every threshold that the mean of all cases does not meet.

    The PSNR of identical pictures counts as infinite when nothing else has one; any other value that does not exist
    meets no threshold.
    """
    everything = comparison.groups()[0]
    faults = []
    for threshold in thresholds:
        mean = everything.means[threshold.name]
        if mean is not None:
            if threshold.failed_by(mean.mean):
                faults.append(f"{threshold}: it is {mean.mean:.6g}")
        elif everything.count and all(threshold.name in case.equal for case in comparison.cases if not case.reason):
            if threshold.failed_by(float("inf")):
                faults.append(f"{threshold}: the pictures are identical")
        else:
            faults.append(f"{threshold}: no case has this value")
    if faults:
        raise ThresholdError("failed " + "; ".join(faults))


def _unexplained(column: str, cases: Sequence[Case]) -> int:
    return sum(case.values.get(column) is None and column not in case.equal for case in cases)


def _case_entry(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "edit_type": case.edit_type,
        "status": "failed" if case.reason else "ok",
        "reason": case.reason,
        **case.values,
        "identical": case.identical,
        "equal": list(case.equal),
        "missing": dict(case.missing),
        **case.entry,
    }


def _group_entry(group: Group) -> dict[str, Any]:
    means = {
        column: mean and {"mean": mean.mean, "low": mean.low, "high": mean.high, "count": mean.count}
        for column, mean in group.means.items()
    }
    return {"name": group.name, "count": group.count, "identical": group.identical,
            "left_out": dict(group.left_out), "means": means}  # fmt: skip
