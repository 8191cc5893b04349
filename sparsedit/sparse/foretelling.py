"""Calls that an edit leaves out: what its original's model answered there, and the edit's change of it carried on.

An original's answers are recorded at every call. What an edit changes in them moves more evenly from call to call than
they do: a line through its last two changes tells the next well (benchmarks/NOTES.md has the decibels). Where the edit
changes nothing the answer is its original's, bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse.cache import Remembered
from sparsedit.sparse.rows import map_tensors, tensors_of


class Foretelling:
    """Answers for a model at all calls of a run but those that are `made`, upon the recording of its original.

    One serves a whole run, over the contexts in which its calls are made. `told` holds what was answered, by call.
    """

    def __init__(self, original: Remembered, made: Container[int]) -> None:
        self.original = original
        self.made = made
        self.call = 0
        self.told: dict[int, list[Tensor]] = {}
        self._changes: deque[tuple[int, list[Tensor]]] = deque(maxlen=2)
        self._form: Any = None

    def over(self, edge: Callable[..., Any]) -> Callable[..., Any]:
        """`edge` as a model's forward, asked only for the calls that are made."""

        def answer(*args: Any, **kwargs: Any) -> Any:
            number, self.call = self.call, self.call + 1
            recorded = self.original.step(number).outputs
            if number in self.made:
                self._form = edge(*args, **kwargs)
                changes = [own - theirs for own, theirs in zip(tensors_of(self._form), recorded, strict=True)]
                self._changes.append((number, changes))
                return self._form
            self.told[number] = [own + change for own, change in zip(recorded, self._next(number), strict=True)]
            told = iter(self.told[number])
            return map_tensors(self._form, lambda _: next(told))

        return answer

    def beside_first(self, second: Any) -> Any:
        """The second row of a first call's answer, beside the first row of the original's."""
        firsts = iter(self.original.step(0).outputs)
        return map_tensors(second, lambda row: torch.cat([next(firsts)[:1], row]))

    def _next(self, number: int) -> list[Tensor]:
        """The change at a call, on the line through the last two, or as the only one."""
        if not self._changes:
            raise EngineError("the first call of a run cannot be left out: nothing is known of its change")
        (before, first), (after, last) = self._changes[0], self._changes[-1]
        if before == after:
            return last
        far = (number - before) / (after - before)
        return [torch.lerp(one, other, far) for one, other in zip(first, last, strict=True)]


def foretold(foretelling: Foretelling | None, edge: Callable[..., Any]) -> Callable[..., Any]:
    """An edge asked for every call, or for those that are made."""
    return edge if foretelling is None else foretelling.over(edge)
