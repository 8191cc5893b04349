"""The swap itself: another forward in a module's instance, and what was there before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Swapped:
    """Marks a forward that the engine put there."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@contextmanager
def answering(module: nn.Module, forward: Swapped) -> Iterator[None]:
    """Let a module answer with another forward; what its instance held before comes back."""
    held = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if held is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = held


def touched(module: nn.Module) -> bool:
    """Whether a call of the module itself is more than its class's own code in evaluation: hooks, a forward of its own,
    dropout in training."""
    return bool(
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or (module.training and isinstance(module, nn.Dropout))
    )
