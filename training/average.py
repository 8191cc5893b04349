"""A slow average of the weights: what is validated and exported, as it is better than any single step's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Average:
    """Exponential average of parameters.

    Unless the first weights are good ones (`settled`), a young average forgets them faster.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float, settled: bool = False) -> None:
        self.parameters = list(parameters)
        self.decay, self.settled = decay, settled
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int, steps: int) -> None:
        """Take in the weights after `step` steps of training, `steps` of them since the last update."""
        decay = self.decay if self.settled else min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay**steps)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights, within the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)
