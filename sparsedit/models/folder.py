"""A diffusers folder on disk: its `model_index.json`, read and checked before anything is imported for it.

diffusers imports whatever library an index names and runs pipeline code that lies in the folder. An index
is data from strangers, so only classes of diffusers and transformers themselves are let through here.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from sparsedit.errors import ModelError

INDEX = "model_index.json"


@dataclass(frozen=True)
class FolderIndex:
    """What `model_index.json` says, and `pipeline` has a place for.

    `components` maps a component to its class, or to `None` where the pipeline does without it; `options`
    are the pipeline's plain settings (`force_zeros_for_empty_prompt`, ...).
    """

    pipeline: type[DiffusionPipeline]
    components: dict[str, type | None]
    options: dict[str, Any]


def read_index(folder: Path) -> FolderIndex:
    """Read and check the index of `folder`; `ModelError` says what is wrong with it and where."""
    raw = read_json(folder / INDEX)
    pipeline = _pipeline_class(folder, raw.get("_class_name"))
    places = dict(inspect.signature(pipeline).parameters)
    named = {key: value for key, value in raw.items() if key in places}
    components = {key: _component_class(folder, key, value) for key, value in named.items() if isinstance(value, list)}
    for key, place in places.items():
        if place.default is place.empty and key not in components:
            raise ModelError(f"{folder / INDEX} names no {key}, which {pipeline.__name__} needs")
    options = {key: value for key, value in named.items() if key not in components}
    if "add_watermarker" in places:
        # SDXL's invisible watermark, on by default when that library is installed, would change pixels
        # outside the mask.
        options["add_watermarker"] = False
    return FolderIndex(pipeline, components, options)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`; `ModelError` when it is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} is not a diffusers folder: it has no {path.name}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def _pipeline_class(folder: Path, name: object) -> type[DiffusionPipeline]:
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, DiffusionPipeline)):
        raise ModelError(
            f"{folder / INDEX} names the pipeline {name!r}, unknown to diffusers "
            f"{diffusers.__version__}; pipelines with code of their own are not run"
        )
    return cls


def _component_class(folder: Path, key: str, entry: list[object]) -> type | None:
    match entry:
        case [None, None]:
            return None
        case [str() as library, str() as name]:
            homes = {"diffusers": diffusers, "transformers": transformers}
            home = homes.get(library) or getattr(diffusers.pipelines, library, None)
            cls = getattr(home, name, None)
            if isinstance(cls, type):
                return cls
    raise ModelError(
        f"{folder / INDEX} names {entry!r} for {key!r}, which is no class of diffusers or transformers; "
        "components with code of their own are not run"
    )
