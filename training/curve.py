"""Draw the curves of trainings from their logs.

python -m training.curve                one PNG per log, in training/log
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.arguments import command
from training.log import read_log, say
from training.settings import LOG


def draw(log: Path, picture: Path) -> None:
    """Loss, rate and every validation score of a log against minutes of training, as a PNG."""
    # Here, because matplotlib is an extra that only this file needs.
    from matplotlib.figure import Figure

    rows = read_log(log)
    steps = [row for row in rows if "loss" in row]
    validated = [row for row in rows if "validation" in row]
    names = list(validated[0]["validation"]) if validated else []
    figure = Figure(figsize=(5 * (1 + len(names)) if len(names) < 4 else 10, 4), layout="constrained")
    panels = figure.subplots(1, 1 + (len(names) if len(names) < 4 else 1), squeeze=False)[0]
    _plot(panels[0], [row["minutes"] for row in steps], {"loss": [row["loss"] for row in steps]})
    minutes = [row.get("minutes", 0) for row in validated]
    curves = {name: [row["validation"][name] for row in validated] for name in names}
    groups: list[dict[str, Any]] = [{name: curves[name]} for name in names] if len(names) < 4 else [curves]
    for panel, group in zip(panels[1:], groups, strict=True):
        _plot(panel, minutes, group)
    figure.suptitle(_title(rows))
    figure.savefig(picture, dpi=100)


def _plot(panel: Any, minutes: list[float], curves: dict[str, list[float]]) -> None:
    for name, values in curves.items():
        panel.plot(minutes, values, label=name)
    panel.set_xlabel("minutes of training")
    panel.legend()
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
    for log in parser.parse_args().logs or sorted(LOG.glob("*.jsonl")):
        picture = log.with_suffix(".png")
        draw(log, picture)
        say(str(picture))


if __name__ == "__main__":
    main()
