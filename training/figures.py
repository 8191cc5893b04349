"""From results in score.json to Markdown: one table for each section, targets beside what was reached.

Pure functions of the results. Intervals are Wilson's, 95 %: they say what 200 prompts can tell, not what the probe
misreads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scipy.stats import binomtest

Result = Mapping[str, Any]

PSNR, SSIM = 31.0, 0.88
SECONDS = 2.0
FEW_STEPS, FEW_STEP_POINTS = 4, 10.0
_BUSY = 0.5  # load average per core above which a time is no measurement


@dataclass(frozen=True)
class Judged:
    """An attribute as the card names it, over which group of prompts it is judged, and its target in per cent.

    Objects are judged over the prompts that name them: always saying "none" must not look like an answer.
    """

    title: str
    group: str
    target: float | None


JUDGED = {
    "time": Judged("time of day", "all", 97),
    "ground": Judged("ground", "all", 97),
    "mountains": Judged("mountains, or none", "all", 97),
    "sun or moon": Judged("sun or moon, or none", "all", 97),
    "house": Judged("house there, on the side told", "named", 90),
    "wall": Judged("colour of its walls", "named", 90),
    "trees": Judged("trees of the kind told", "named", 85),
    "water": Judged("lake or river as told", "named", 90),
    "clouds": Judged("clouds, or none", "all", None),
    "roof": Judged("colour of the house's roof", "named", None),
    "boat": Judged("boat, with the sail told", "named", None),
}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


def adherence(counts: Result) -> str:
    """Attributes against their targets, the probe's accuracy and the commonest answer beside them."""
    headings = (
        *("attribute", "prompts", "target", "right", "95 % interval", "reached"),
        *("the probe on rendered scenes", "commonest value", "right over all prompts"),
    )
    rows = []
    for name, judged in JUDGED.items():
        group, everything = counts[name][judged.group], counts[name]["all"]
        rows.append(
            (
                judged.title,
                str(group["count"]),
                "–" if judged.target is None else f"≥ {judged.target:g} %",
                percent(group["generated"], group["count"]),
                interval(group["generated"], group["count"]),
                "–" if judged.target is None else verdict(_reaches(group, judged.target)),
                percent(group["rendered"], group["count"]),
                percent(group["majority"], group["count"]),
                percent(everything["generated"], everything["count"]),
            )
        )
    return table(headings, rows)


def few_step(full: Result, few: Result) -> str:
    """Attributes of the few-step version beside those of the full schedule, and what 4 steps lose, in points."""
    steps = sorted((int(name) for name in few if name.isdigit()), reverse=True)
    headings = [
        "attribute",
        "full schedule",
        *(f"{count} step{'s' * (count > 1)}" for count in steps),
        f"{FEW_STEPS} steps – full",
    ]
    rows: list[Sequence[str]] = []
    lost: dict[str, float] = {}
    for name, judged in JUDGED.items():
        whole = _share(full[name][judged.group])
        shares = {count: _share(few[str(count)][name][judged.group]) for count in steps}
        change = _difference(shares.get(FEW_STEPS), whole)
        rows.append((judged.title, *map(points, (whole, *shares.values())), signed(change)))
        if change is not None and judged.target is not None:
            lost[judged.title] = -change
    return table(headings, rows) + "\n\n" + _few_step_verdict(lost)


def _few_step_verdict(lost: Mapping[str, float]) -> str:
    if not lost:
        return f"Not measured at {FEW_STEPS} steps."
    worst = max(lost, key=lambda title: lost[title])
    within = verdict(lost[worst] <= FEW_STEP_POINTS)
    return (
        f"Of the attributes with a target, “{worst}” loses the most at {FEW_STEPS} steps: {lost[worst]:.1f} points. "
        f"Target: at most {FEW_STEP_POINTS:g} – reached: {within}."
    )


def reconstruction(result: Result) -> str:
    """Autoencoders: PSNR and SSIM, and the fine contrast of stars and windows that is kept."""
    rows = [
        (name, f"{row['psnr']:.2f} dB", f"{row['ssim']:.4f}", points(row["stars"]), points(row["windows"]))
        for name, row in result.items()
    ]
    return table(("", "PSNR", "SSIM", "stars: contrast kept", "walls and windows: contrast kept"), rows)


def reconstruction_verdict(result: Result) -> str:
    row = result["VAE"]
    return (
        f"Target: at least {PSNR:g} dB – reached: {verdict(row['psnr'] >= PSNR)} ({row['psnr']:.2f} dB); "
        f"SSIM at least {SSIM:g} – reached: {verdict(row['ssim'] >= SSIM)} ({row['ssim']:.4f})."
    )


def sketches(result: Result) -> str:
    """By strength, sketch and result against the rendered scene."""
    headings = ("strength", "", "sketch", "result", "scenes whose result is closer", "95 % interval")
    rows: list[Sequence[str]] = []
    for strength, row in result.items():
        count, probe = row["count"], row["probe"]
        for name, form in (("ssim", "{:.4f}"), ("psnr", "{:.2f} dB")):
            values = (form.format(row[name][column]) for column in ("sketch", "result"))
            closer = row[name]["closer"]
            rows.append((strength, name.upper(), *values, percent(closer, count), interval(closer, count)))
        read = (percent(probe[column], probe["attributes"]) for column in ("sketch", "result"))
        changed = f"more right {percent(probe['closer'], count)}, fewer {percent(probe['farther'], count)}"
        rows.append((strength, "attributes the probe reads right", *read, changed, interval(probe["closer"], count)))
    return table(headings, rows)


def sketches_verdict(result: Result) -> str:
    """At which strengths the mean result is closer than the mean sketch, by each measure."""
    closer = {
        "SSIM": [name for name, row in result.items() if row["ssim"]["result"] > row["ssim"]["sketch"]],
        "the probe": [name for name, row in result.items() if row["probe"]["result"] > row["probe"]["sketch"]],
    }
    said = (f"by {name} at strength {' and '.join(at)}" if at else f"by {name} at none" for name, at in closer.items())
    both = set(closer["SSIM"]) & set(closer["the probe"])
    return f"Results are closer on average {', '.join(said)}. Target: closer by both – reached: {verdict(bool(both))}."


def pace(result: Result, cores: int | None) -> str:
    """Seconds of one picture, and whether the machine was quiet enough to say so."""
    seconds, load = result["seconds"], result["load_averages"][0]
    told = (
        f"Median of {len(seconds)}: {median(seconds):.2f} s (from {min(seconds):.2f} to {max(seconds):.2f} s), "
        f"threads: {result['threads']}, load average of the minute before {load:.2f}."
    )
    if load > _BUSY * (cores or 1):
        return f"{told} The machine was busy: this is an upper bound, not a measurement."
    return f"{told} Target: below {SECONDS:g} s on two cores – reached: {verdict(median(seconds) < SECONDS)}."


def edges(result: Result) -> str:
    """How well edges of pictures agree with the edges given."""
    rows = [(name, f"{value:.3f}") for name, value in result["f1"].items()]
    return table(("pictures", f"F1 within {result['settings']['tolerance']} pixels"), rows)


def verdict(reached: bool) -> str:
    return "yes" if reached else "**no**"


def percent(right: int, count: int) -> str:
    return points(right / count if count else None)


def points(share: float | None) -> str:
    """A share in per cent, or a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def signed(difference: float | None) -> str:
    return "–" if difference is None else f"{difference:+.1f}"


def interval(right: int, count: int) -> str:
    """Wilson's 95 % interval of a share, in per cent."""
    if not count:
        return "–"
    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return f"{100 * found.low:.1f}–{100 * found.high:.1f} %"


def _share(group: Mapping[str, int]) -> float | None:
    return group["generated"] / group["count"] if group["count"] else None


def _reaches(group: Mapping[str, int], target: float) -> bool:
    return 100 * group["generated"] >= target * group["count"] > 0


def _difference(share: float | None, other: float | None) -> float | None:
    return None if share is None or other is None else 100 * (share - other)
