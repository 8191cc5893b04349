"""What a run cannot score on this machine, said before it begins."""

from __future__ import annotations

from rich.console import Console


def say_unscored(console: Console) -> None:
    """Name the scores of a run whose networks are not on this machine, and how to get them; nothing when all are."""
    from sparsedit.metrics.backbones import backbones_of, find
    from sparsedit.metrics.protocol import PNP_V1

    absent = {metric: name for metric, name in backbones_of(PNP_V1).items() if find(name) is None}
    if absent:
        pull = "; ".join(f"sparsedit models pull {name}" for name in absent.values())
        console.print(f"not scored, as the weights are not on this machine: {', '.join(absent)} ({pull})", style="dim")
