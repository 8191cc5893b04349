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
from sparsedit.files import file_fault

INDEX = "model_index.json"

UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Components that look at finished pictures or at prompts that are pictures. Pipelines are called for latents and with
texts here, so that these would never run."""


@dataclass(frozen=True)
class FolderIndex:
    """What `model_index.json` says, and `pipeline` has a place for.

    `folders` are where the index and the components' files lie, the first one to have a file winning. `components`
    maps a component to its class, or to `None` where the pipeline does without it; `options` are the pipeline's plain
    settings (`force_zeros_for_empty_prompt`, ...).
    """

    folders: tuple[Path, ...]
    pipeline: type[DiffusionPipeline]
    components: dict[str, type | None]
    options: dict[str, Any]

    def home(self, name: str, file: str) -> Path:
        """The folder of a component that has `file`; for a lone model that may be the folder of the index itself.

        Without such a folder, the one where it would be looked for.
        """
        places = [folder / name for folder in self.folders] + list(self.folders)
        return next((place for place in places if (place / file).is_file()), self.folders[0] / name)


def read_index(*folders: Path) -> FolderIndex:
    """Read and check the index in the first of `folders` that has one; `ModelError` says what is wrong and where."""
    folder = next((folder for folder in folders if (folder / INDEX).is_file()), folders[0])
    raw = read_json(folder / INDEX)
    pipeline = _pipeline_class(folder, raw.get("_class_name"))
    places = dict(inspect.signature(pipeline).parameters)
    named = {key: value for key, value in raw.items() if key in places}
    components = {
        key: None if key in UNUSED else _component_class(folder, key, value)
        for key, value in named.items()
        if isinstance(value, list)
    }
    for key, place in places.items():
        if place.default is place.empty and key not in components:
            if key not in UNUSED:
                raise ModelError(f"{folder / INDEX} names no {key}, which {pipeline.__name__} needs")
            components[key] = None
    options = {key: value for key, value in named.items() if key not in components}
    if "requires_safety_checker" in places:
        options["requires_safety_checker"] = False
    if "add_watermarker" in places:
        # SDXL's invisible watermark, on by default when that library is installed, would change pixels
        # outside the mask.
        options["add_watermarker"] = False
    return FolderIndex(folders, pipeline, components, options)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`; `ModelError` when it is missing or holds something else."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} {file_fault(path)}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path.parent} is not a diffusers folder: it has no {path.name}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def named_class(path: Path, kinds: tuple[type, ...]) -> Any:
    """The class of diffusers that the configuration file `path` names, one of `kinds`; `ModelError` for any other."""
    name = read_json(path).get("_class_name")
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, kinds)):
        known = " or ".join(kind.__name__ for kind in kinds)
        raise ModelError(f"{path} names the class {name!r}; what can be used here is {known}")
    return cls


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
