"""Has a change made thin calls slower? Ratios of today against committed ones; never absolute times.

    python -m benchmarks.guard [--model demo] [--stage unet] [--samples 5] [--tolerance 0.7]

Measures some points of a committed curve again (`benchmarks/edit_sizes.py`), dense and thin calls in turn, and fails
(exit code 3) where a speed-up has fallen below `tolerance` times the committed one, or where multiply-adds have risen.
Committed ratios of another machine say little: take the curve on this one first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.edit_sizes import Options, curve, say
from benchmarks.machine import machine_slug
from sparsedit.environment import environment
from sparsedit.measure.spread import Spread, ratios
from sparsedit.measure.warnings import load_average
from sparsedit.models.placement import resolve_device

RATIOS = (0.01, 0.1)


def faults(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    """What has become worse from one curve to the other, at the points of the new one."""
    before = {(point["pattern"], point["edit_ratio"]): point for point in old["points"]}
    for point in new["points"]:
        stored = before[point["pattern"], point["edit_ratio"]]
        name = f"{point['edit_ratio']:.1%} {point['pattern']}"
        was, now = speed_up(old, stored), speed_up(new, point)
        say(f"{name}: {was:.2f}x committed, {now:.2f}x now")
        if now < tolerance * was:
            yield f"{name}: a speed-up of {now:.2f}x, committed {was:.2f}x"
        if point["macs"] + point["attention_macs"] > stored["macs"] + stored["attention_macs"]:
            yield f"{name}: {point['macs']} multiply-adds, committed {stored['macs']}"


def speed_up(curve: Mapping[str, Any], point: Mapping[str, Any]) -> float:
    """The median of the rounds' ratios of dense to thin seconds."""
    spread = Spread.of(ratios(curve["dense"]["seconds"], point["seconds"]))
    assert spread is not None
    return spread.median


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--stage", default="unet", choices=("unet", "encoder", "decoder"))
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=0.7)
    asked = parser.parse_args()
    machine = machine_slug(environment(), str(resolve_device("auto")))
    file = Path(__file__).parent / "results" / machine / "edit-sizes.json"
    if not file.exists():
        say(f"nothing to compare with: {file} does not exist; make bench-profile writes it")
        return 2
    curves = json.loads(file.read_text())["curves"]
    old = next((each for each in curves if (each["model"], each["stage"]) == (asked.model, asked.stage)), None)
    if old is None:
        say(f"nothing to compare with: {file} has no curve of the {asked.stage} of {asked.model}")
        return 2
    size, pack = (old["size"][0], old["size"][1]), old["packed"]
    options = Options(asked.stage, size, old["batch"], RATIOS, asked.samples, old["policy"], pack, "auto", old["dtype"])
    found = list(faults(old, curve(asked.model, options, load_average()), asked.tolerance))
    for fault in found:
        say(fault)
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
