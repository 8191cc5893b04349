"""Steps and prompts as tensors with names, and back: what goes into a recording's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedit.cache.tensors import TensorFile
from sparsedit.errors import DamagedError
from sparsedit.sparse.cache import Memory, Step, TextMemory
from sparsedit.sparse.halo import HaloMemory, KeptRows
from sparsedit.sparse.int8 import Int8Memory
from sparsedit.sparse.sites import Size

Parts = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the JSON-ready rest."""


def step_parts(step: Step) -> Parts:
    """A step in parts. Which rows are kept is written once for all the leaves that share it."""
    tensors: dict[str, Tensor] = {f"output.{number}": out for number, out in enumerate(step.outputs)}
    if step.timestep is not None:
        tensors["timestep"] = step.timestep
    kept: list[KeptRows] = []
    leaves = {}
    for name, memory in step.leaves.items():
        tensors |= {f"leaf.{name}.{number}": tensor for number, tensor in enumerate(memory.tensors)}
        entry: dict[str, Any] = {"tensors": len(memory.tensors), "size": memory.size, "grid": memory.grid}
        if isinstance(memory, Int8Memory):
            entry["dtype"] = _name_of(memory.dtype)
        elif isinstance(memory, HaloMemory):
            if not any(memory.kept is rows for rows in kept):
                kept.append(memory.kept)
            entry["kept"] = next(number for number, rows in enumerate(kept) if rows is memory.kept)
        leaves[name] = entry
    tensors |= {f"kept.{number}": rows.positions for number, rows in enumerate(kept)}
    about = {"size": step.size, "batch": step.batch, "dtype": _name_of(step.dtype), "leaves": leaves}
    return tensors, about | {"outputs": len(step.outputs), "kept": len(kept)}


def step_of(file: TensorFile, device: torch.device, known: list[KeptRows]) -> Step:
    """The step in a file, for calls on `device`; its tensors stay where they are.

    `known` are the kept rows of the steps before, which serve this one too where they are the same; new ones are added.
    Raises DamagedError when the file holds no step.
    """
    tensors, about = file.tensors, file.about
    try:
        kept = [_shared(tensors[f"kept.{number}"], known) for number in range(about["kept"])]
        return Step(
            _size(about["size"]),
            about["batch"],
            getattr(torch, about["dtype"]),
            device,
            tensors.get("timestep"),
            {name: _memory(name, entry, tensors, kept) for name, entry in about["leaves"].items()},
            [tensors[f"output.{number}"] for number in range(about["outputs"])],
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DamagedError(f"{file.path} is damaged: it holds no step ({error!r})") from error


def text_parts(texts: TextMemory) -> Parts:
    """The prompts of a recording: each once, with what was projected of it."""
    tensors = {f"text.{number}": text.contiguous() for number, text in texts.numbered().items()}
    tensors |= {f"projected.{number}.{name}": projected for (name, number), projected in texts.projected.items()}
    return tensors, {"prompts": texts.prompts}


def texts_of(file: TensorFile, device: torch.device) -> TextMemory:
    """The prompts in a file, on `device`."""
    texts = TextMemory(prompts=file.about["prompts"])
    for key, tensor in file.tensors.items():
        kind, number, *name = key.split(".", 2)
        if kind == "text":
            texts.know(tensor.to(device), int(number))
        else:
            texts.projected[name[0], int(number)] = tensor.to(device)
    return texts


def _memory(name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor], kept: list[KeptRows]) -> Memory:
    held = tuple(tensors[f"leaf.{name}.{number}"] for number in range(entry["tensors"]))
    size, grid = _size(entry["size"]), entry["grid"] and _size(entry["grid"])
    if "dtype" in entry:
        return Int8Memory(held, size, grid, dtype=getattr(torch, entry["dtype"]))
    if "kept" in entry:
        return HaloMemory(held, size, grid, kept=kept[entry["kept"]])
    return Memory(held, size, grid)


def _shared(positions: Tensor, known: list[KeptRows]) -> KeptRows:
    for rows in known:
        if torch.equal(rows.positions, positions):
            return rows
    known.append(KeptRows(positions))
    return known[-1]


def _size(pair: list[int]) -> Size:
    height, width = pair
    return height, width


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
