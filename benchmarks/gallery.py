"""A picture of some edits of some runs, a row each: what was there, what was asked, what is computed, sparse, dense.

    python -m benchmarks.gallery RUN/CASE/VARIANT ... -o docs/tasks.png

Everything comes from the runs' folders: pictures from images/, what a row says from records.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from sparsedit.records import Record, macs_ratio, read_records

COLUMNS = {
    "original": "original",
    "edited": "as asked for",
    "mask": "may change",
    "sparse": "sparse",
    "dense": "dense",
}
WIDTH, ROW, DPI = 10.0, 2.4, 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", nargs="+", type=Path, metavar="RUN/CASE/VARIANT")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    draw([(edit, record_of(edit)) for edit in options.edits], options.output)


def record_of(edit: Path) -> Record:
    """The last record of RUN/CASE/VARIANT. Ends the program where there is none."""
    variant, case, run = edit.name, edit.parent.name, edit.parent.parent
    found = [r for r in read_records(run / "records.jsonl") if (r["case"], r["variant"]) == (case, variant)]
    if not found:
        raise SystemExit(f"{run} has no edit {case}/{variant}")
    return found[-1]


def draw(edits: Sequence[tuple[Path, Record]], path: Path) -> None:
    """Write the rows as one PNG."""
    figure = plt.figure(figsize=(WIDTH, ROW * len(edits)), dpi=DPI, layout="constrained")
    for place, (edit, record) in zip(figure.subfigures(len(edits), 1, squeeze=False)[:, 0], edits, strict=True):
        place.suptitle(title(record), fontsize=8, x=0.01, ha="left")
        row: Any = place.subplots(1, len(COLUMNS))
        for axes, (name, caption) in zip(row, COLUMNS.items(), strict=True):
            _show(axes, edit.parent.parent / "images" / edit.parent.name / edit.name / f"{name}.png", caption)
    figure.savefig(path)
    plt.close(figure)


def title(record: Record) -> str:
    """What it cost and, in a second line, new words where there are any."""
    inside, ratio = record["fidelity"]["inside"]["psnr"], macs_ratio(record)
    facts = [f"{record['task']} ({record['case']}/{record['variant']})"]
    if inside is not None:
        facts.append(f"{inside:.1f} dB to the dense edit inside")
    if ratio is not None:
        facts.append(f"{ratio:.1f}x fewer UNet MACs")
    words = (record["original_prompt"], record["edit_prompt"])
    return " · ".join(facts) + ("\n“{}” → “{}”".format(*words) if words[0] != words[1] else "")


def _show(axes: Axes, picture: Path, caption: str) -> None:
    axes.set_axis_off()
    if picture.is_file():
        axes.imshow(matplotlib.image.imread(picture), cmap="gray", vmin=0, vmax=1)
        axes.set_title(caption, fontsize=7, loc="left", pad=2)


if __name__ == "__main__":
    main()
