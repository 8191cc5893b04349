"""What a worker spends on each outcome: in models, in scoring, in loading, and in all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from sparsedit.bench.outcome import Seconds
from sparsedit.engines.entries import Done, seconds
from sparsedit.metrics.pixels import Mask
from sparsedit.metrics.quality import Judge
from sparsedit.metrics.scorer import Scores


class Meter:
    """Runs from its making on; what it has is taken off it for one outcome at a time."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.model = self.scores = self.loaded = 0.0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What is done in the block is loading models."""
        start = time.perf_counter()
        yield
        self.loaded += time.perf_counter() - start

    def ran(self, done: Done) -> None:
        """An edit was made, and what it needed recorded; the dense edit it is compared with is another matter."""
        own = seconds(done)
        self.model += (own["record_s"] or 0.0) + (0.0 if done.result is done.dense else own["sparse_s"])

    def take(self) -> Seconds:
        """What was spent since the last time."""
        taken = Seconds(time.perf_counter() - self.start, self.model, self.scores, self.loaded)
        self.model = self.scores = self.loaded = 0.0
        return taken

    def go_on(self) -> None:
        """Run again: what was between is not the worker's."""
        self.start = time.perf_counter()


class TimedJudge(Judge):
    """A judge that knows how long it took."""

    spent = 0.0

    def fidelity(self, sparse: Image.Image, dense: Image.Image, regions: dict[str, Mask]) -> dict[str, Any]:
        with self._timed():
            return super().fidelity(sparse, dense, regions)

    def truth(self, edit: Image.Image, truth: Image.Image, mask: Mask) -> dict[str, Any]:
        with self._timed():
            return super().truth(edit, truth, mask)

    def quality(self, original: Image.Image, edit: Image.Image, mask: Mask, prompt: str) -> Scores:
        with self._timed():
            return super().quality(original, edit, mask, prompt)

    def take(self) -> float:
        """Seconds since the last time."""
        taken, self.spent = self.spent, 0.0
        return taken

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent += time.perf_counter() - start
