"""Weights that accelerate keeps elsewhere until a module is called (`enable_sequential_cpu_offload`).

A leaf reads the weights of its modules without calling them, so that nobody would fetch these. Here the modules' own
hooks do. Models offloaded whole need nothing: their hook runs around the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def offloaded(module: nn.Module) -> list[nn.Module]:
    """The module and those below it whose weights lie elsewhere between calls."""
    return [part for part in module.modules() if getattr(vars(part).get("_hf_hook"), "offload", False)]


@contextmanager
def onloaded(modules: list[nn.Module]) -> Iterator[None]:
    """Have the weights of these modules at hand within the block, called there or not."""
    hooks: list[tuple[nn.Module, Any]] = [(module, module._hf_hook) for module in modules]
    for module, hook in hooks:
        hook.pre_forward(module)
        hook.offload = False
    try:
        yield
    finally:
        for module, hook in hooks:
            hook.offload = True
            hook.post_forward(module, None)
