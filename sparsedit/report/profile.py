"""From profile records to what is read of them: rows and notes.

Everything derived is made here, from the record alone: medians, ratios, and each row's share of what the machine can do
at best, which is max(multiply-adds / matrix rate, least bytes / bandwidth) over the median seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsedit.measure.spread import Spread, ratios
from sparsedit.report.numbers import figure, giga, percent

Profile = Mapping[str, Any]

PARTS = {"call": "one call", "edit": "whole edit"}


@dataclass(frozen=True)
class Side:
    """A stage run one way. `least_s` is the time it would take at the machine's limit, `share` that over the median."""

    macs: int | None = None
    attention_macs: int | None = None
    least_bytes: int | None = None
    peak_bytes: int | None = None
    seconds: Spread | None = None
    least_s: float | None = None

    @property
    def share(self) -> float | None:
        return self.least_s / self.seconds.median if self.least_s and self.seconds else None


@dataclass(frozen=True)
class ProfileRow:
    """One stage of a profile: of "call" one call of its model, of "edit" all it does for one edit.

    `speedup` is the median of the rounds' ratios, not the ratio of the medians.
    """

    part: str
    stage: str
    calls: int
    dense: Side
    sparse: Side
    speedup: Spread | None = None
    cache_bytes: int | None = None

    @property
    def name(self) -> str:
        return f"{self.stage}, {self.calls} calls" if self.calls > 1 else self.stage

    @property
    def macs_ratio(self) -> float | None:
        return self.dense.macs / self.sparse.macs if self.dense.macs and self.sparse.macs else None

    def entry(self) -> dict[str, Any]:
        """The row's numbers with those derived from them, for JSON."""
        shares = {"dense_share": self.dense.share, "sparse_share": self.sparse.share}
        return asdict(self) | {"macs_ratio": self.macs_ratio} | shares


def profile_rows(profile: Profile) -> list[ProfileRow]:
    """The rows of one record, in the order of the stages, calls first."""
    ceilings = profile["ceilings"] or {}
    rows = [_call_row(stage, call, ceilings.get(call["dtype"])) for stage, call in profile["calls"].items()]
    if profile["edit"]:
        stages = [
            _edit_row(stage, entry, ceilings.get(profile["calls"][stage]["dtype"]))
            for stage, entry in profile["edit"]["stages"].items()
        ]
        rows += [*stages, _total_row(stages, profile["edit"])]
    return rows


def profile_entry(profile: Profile) -> dict[str, Any]:
    """The record with its rows, for JSON."""
    return dict(profile) | {"rows": [row.entry() for row in profile_rows(profile)]}


def title(profile: Profile) -> str:
    """What was profiled: case, model, task, policy, size, batch, and how much the edit changes."""
    width, height = profile["size"]
    edited, sites = percent(profile["edit_ratio"]), percent(profile["sites"])
    model = " + ".join(filter(None, (profile["model"], profile.get("refiner"))))
    named = (f"{profile['case']}/{profile['variant']}", model, profile["task"], profile["policy"])
    return " · ".join(
        [*named, f"{width}x{height}", f"batch {profile['batch']}", f"{edited} of the pixels, {sites} of the latents"]
    )


def notes(profile: Profile) -> list[str]:
    """What a reader must know beside the numbers."""
    return [*explanations(profile), *profile["warnings"], *beyond(profile_rows(profile))]


def explanations(profile: Profile) -> Iterator[str]:
    """What the rows mean."""
    if profile["sampling"] is None:
        yield "counted, not run: no seconds and no memory"
    else:
        rounds = profile["sampling"]["samples"]
        yield (
            f"medians of {rounds} interleaved rounds; spread: from the smallest sample to the largest, as a share of "
            "the median; one call: the second in its context, with plans made and weights re-ordered"
        )
    if profile["edit"] is None:
        yield "the whole edit is profiled with all stages and the batch that guidance makes"
    elif (recorded := profile["edit"]["total"]["record_s"]) is not None:
        yield (
            f"whole edit: as users get it once the original is recorded ({figure(recorded)} s), planning and pictures "
            "in and out included"
        )
    yield "remembered: of one step, in the total of all steps; attention: its own products, which GMACs leave out"
    for name, best in (profile["ceilings"] or {}).items():
        yield (
            f"limit in {name}: {giga(best['macs_per_second'])} G MACs/s or {giga(best['bytes_per_second'])} GB/s, "
            "whichever takes longer"
        )


def machine(profiles: Sequence[Profile], environment: Mapping[str, Any]) -> str:
    """What the numbers were taken on."""
    dtypes = ", ".join(dict.fromkeys(call["dtype"] for profile in profiles for call in profile["calls"].values()))
    torch = f"torch {environment['packages']['torch']}"
    if profiles[0]["sampling"] is None:
        return f"bytes in {dtypes} · {torch}"
    processor = environment["processor"]
    gpus = [gpu["name"] for gpu in environment["gpus"]] if "cuda" in profiles[0]["device"] else []
    return " · ".join(
        [
            *gpus[:1],
            f"{processor['name']}, {processor['cores']} cores, torch on {environment['threads']}",
            f"{dtypes} on {profiles[0]['device']}",
            torch,
        ]
    )


def _call_row(stage: str, call: Mapping[str, Any], ceiling: Mapping[str, Any] | None) -> ProfileRow:
    dense, sparse = (_side(call[kind], ceiling) for kind in ("dense", "sparse"))
    return ProfileRow("call", stage, 1, dense, sparse, _speedup(call["dense"], call["sparse"]), call.get("cache_bytes"))


def _edit_row(stage: str, entry: Mapping[str, Any], ceiling: Mapping[str, Any] | None) -> ProfileRow:
    dense, sparse = (_side(entry[kind], ceiling) for kind in ("dense", "sparse"))
    return ProfileRow("edit", stage, entry["dense"]["calls"], dense, sparse, _speedup(entry["dense"], entry["sparse"]))


def _total_row(rows: Sequence[ProfileRow], edit: Mapping[str, Any]) -> ProfileRow:
    memory, total = edit["memory"] or {}, edit["total"]

    def side(kind: str) -> Side:
        sides: list[Side] = [getattr(row, kind) for row in rows]
        least = [each.least_s for each in sides if each.least_s is not None]
        return Side(
            sum(each.macs or 0 for each in sides),
            sum(each.attention_macs or 0 for each in sides),
            sum(each.least_bytes or 0 for each in sides),
            memory.get(f"{kind}_peak_bytes"),
            Spread.of(total[f"{kind}_s"]),
            sum(least) if least else None,
        )

    speedup = Spread.of(ratios(total["dense_s"], total["sparse_s"]))
    return ProfileRow("edit", "total", 1, side("dense"), side("sparse"), speedup, memory.get("cache_bytes"))


def _side(entry: Mapping[str, Any] | None, ceiling: Mapping[str, Any] | None) -> Side:
    if entry is None or entry.get("calls") == 0:
        return Side()
    macs, attention, moved = (entry[key] for key in ("macs", "attention_macs", "least_bytes"))
    least = None
    if ceiling:
        least = max((macs + attention) / ceiling["macs_per_second"], (moved or 0) / ceiling["bytes_per_second"])
    return Side(macs, attention, moved, entry.get("peak_bytes"), Spread.of(entry.get("seconds", [])), least)


def _speedup(dense: Mapping[str, Any], sparse: Mapping[str, Any] | None) -> Spread | None:
    return Spread.of(ratios(dense.get("seconds", []), sparse.get("seconds", []))) if sparse else None


def beyond(rows: Sequence[ProfileRow]) -> list[str]:
    """A sentence when something was faster than the machine can be."""
    found = [row.name for row in rows if max(row.dense.share or 0, row.sparse.share or 0) > 1]
    if not found:
        return []
    return [
        f"{', '.join(dict.fromkeys(found))} ran faster than the machine's limit, which was therefore measured too low: "
        "measure it again with --refresh-ceilings when the machine is quiet"
    ]
