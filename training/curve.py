"""Draw the curves of trainings from their logs.

python -m training.curve                one PNG per log in training/log, for the model's card
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparsedit.errors import InputError
from training.arguments import command
from training.log import read_log, say
from training.settings import DOCS, LOG

_PANELS = 3  # more scores than these share one panel


def draw(log: Path, picture: Path) -> None:
    """Loss and every validation score of a log against minutes of training, as a PNG.

    InputError when matplotlib, an extra that only this file needs, is missing, or the log has nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Curves are drawn by matplotlib, which is not installed: pip install '.[train]'.") from error
    rows = read_log(log)
    steps = [row for row in rows if "loss" in row]
    if not steps:
        raise InputError(f"{log} has no steps to draw.")
    validated = [row for row in rows if "validation" in row]
    names = list(validated[0]["validation"]) if validated else []
    curves = {name: [row["validation"][name] for row in validated] for name in names}
    groups: list[dict[str, Any]] = (
        [{name: values} for name, values in curves.items()] if len(curves) <= _PANELS else [curves]
    )
    figure = Figure(figsize=(4 + 4 * len(groups), 3.5), layout="constrained")
    panels = figure.subplots(1, 1 + len(groups), squeeze=False)[0]
    _plot(panels[0], [row["minutes"] for row in steps], {"loss": [row["loss"] for row in steps]})
    minutes = [row.get("minutes", 0) for row in validated]
    for panel, group in zip(panels[1:], groups, strict=True):
        _plot(panel, minutes, group)
    figure.suptitle(_title(rows))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=80)


def _plot(panel: Any, minutes: list[float], curves: dict[str, list[float]]) -> None:
    for name, values in curves.items():
        panel.plot(minutes, values, label=name)
    panel.set_xlabel("minutes of training")
    panel.legend(fontsize="small")
    panel.grid(alpha=0.3)


def _title(rows: list[dict[str, Any]]) -> str:
    header = rows[0]
    processor = header["machine"]["processor"]["name"]
    last = rows[-1]
    return f"{header['name']}: {last.get('samples', 0):,} samples, {header['workers']} workers, {processor}"


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.curve", description="Draw the curves of trainings.")
    parser.add_argument("logs", nargs="*", type=Path, help="logs to draw (default: all in training/log)")
    parser.add_argument("--to", type=Path, default=DOCS, help="folder to write to (default: that of the model's card)")
    arguments = parser.parse_args()
    for log in arguments.logs or sorted(LOG.glob("*.jsonl")):
        picture = arguments.to / f"curve-{log.stem}.png"
        draw(log, picture)
        say(str(picture))


if __name__ == "__main__":
    main()
