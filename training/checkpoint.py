"""A training's state on disk: written whole or not at all, so a kill at any moment loses minutes, never the file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from sparsedit.errors import InputError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, of tensors and plain values, to `path` in one atomic step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)


def load(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU; InputError says when there is none or it cannot be read."""
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}: run the training that writes it first.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise InputError(f"The checkpoint {path} cannot be read; delete it to start anew.") from error
    if not isinstance(state, dict):
        raise InputError(f"The checkpoint {path} holds a {type(state).__name__}, not a training's state.")
    return state
