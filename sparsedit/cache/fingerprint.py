"""What a recording was made of: two edits may share one exactly when nothing here differs.

A fingerprint is a flat mapping of names to JSON values, so that a mismatch can be told by name. How an edit becomes a
mask is no part of it: one recording serves every mask, unless it was cut down to some.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsedit import __version__
from sparsedit.errors import CacheError
from sparsedit.models.loading import model_revision

if TYPE_CHECKING:
    from sparsedit.plan import Request
    from sparsedit.stages import Stages

FORMAT = 1
"""Of the files; another one is not read."""
LIBRARIES = ("torch", "diffusers", "transformers")
_SAMPLES = 64


@dataclass(frozen=True)
class Fingerprint:
    """Names and JSON values; `key` is a hash of them all."""

    fields: Mapping[str, Any]

    @property
    def key(self) -> str:
        text = json.dumps(dict(self.fields), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, wanted: Fingerprint) -> list[str]:
        """A few words for every field in which this one is not what is wanted."""
        names = [*wanted.fields, *(name for name in self.fields if name not in wanted.fields)]
        pairs = ((name, self.fields.get(name), wanted.fields.get(name)) for name in names)
        return [f"{name} ({_short(own)}, not {_short(other)})" for name, own, other in pairs if own != other]


def fingerprint_of(stages: Stages, refiner: Stages | None, request: Request, **form: Any) -> Fingerprint:
    """The fingerprint of recording a request with a pipeline; `form` says how it is kept."""
    libraries = {library: version(library) for library in LIBRARIES}
    fields: dict[str, Any] = {"format": FORMAT, "sparsedit": __version__, **libraries}
    fields |= _pipeline_fields(stages, request)
    if refiner is not None:
        fields |= {f"refiner.{name}": value for name, value in _pipeline_fields(refiner, request).items()}
    own = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    schedule = dataclasses.asdict(own.pop("schedule"))
    size = [request.original.shape[3], request.original.shape[2]]
    hashed = {name: _hash_of(value) if isinstance(value, Tensor) else value for name, value in own.items()}
    return Fingerprint(json.loads(json.dumps(fields | {"size": size} | hashed | schedule | form, default=str)))


def _pipeline_fields(stages: Stages, request: Request) -> dict[str, Any]:
    pipe = stages.pipe
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(request.schedule.steps)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {
        "pipeline": type(pipe).__name__,
        "model": Path(str(pipe.config.get("_name_or_path") or "")).name,
        "revision": model_revision(pipe),
        **{f"weights.{name}": sampled_hash(part) for name, part in parts.items()},
        **{f"config.{name}": _hash_of(_config(part)) for name, part in parts.items()},
        **{f"dtype.{name}": str(part.dtype).removeprefix("torch.") for name, part in parts.items()},
        "device": stages.device.type,
        "scheduler": type(scheduler).__name__,
        **{f"scheduler.{name}": value for name, value in _config(scheduler).items()},
        "timesteps": [float(timestep) for timestep in scheduler.timesteps],
    }


def sampled_hash(module: nn.Module) -> str:
    """A hash of every weight's and buffer's name, shape and dtype, and of 64 values spread evenly over each.

    Tells other checkpoints, fused LoRAs and trainings apart, in milliseconds instead of the seconds that reading all of
    a large model takes. A change to a few single numbers of a matrix may escape it. Raises CacheError for weights that
    are not in memory.
    """
    digest = hashlib.sha256()
    samples: dict[torch.dtype, list[Tensor]] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise CacheError("weights that are offloaded one by one cannot be told from others; use --offload model")
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().reshape(-1)
        samples.setdefault(tensor.dtype, []).append(flat[:: max(1, len(flat) // _SAMPLES)][: 2 * _SAMPLES])
    for group in samples.values():  # one transfer per dtype, should they be on a GPU
        digest.update(torch.cat(group).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _config(part: Any) -> dict[str, Any]:
    """A part's configuration without what says where it came from."""
    config = part.config if isinstance(part.config, Mapping) else part.config.to_dict()
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _hash_of(value: Any) -> str:
    """Of a tensor's numbers, or of a JSON-ready value."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        data = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
