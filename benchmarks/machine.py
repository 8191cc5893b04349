"""A short name for the machine that results were taken on: the folder they go to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NOISE = re.compile(r"\((?:r|tm)\)|\b(?:amd|intel|nvidia|processor|cpu|with|graphics|\d+-core)\b|@.*", re.IGNORECASE)


def machine_slug(environment: Mapping[str, Any], device: str = "cpu") -> str:
    """The GPU's name where `device` is one, else the processor's, its cores and the vector instructions torch uses.

    As in "h200" and "epyc-2core-avx512".
    `environment` is what `sparsedit.environment.environment` says.
    """
    if device.startswith("cuda"):
        return _slug(environment["gpus"][0]["name"])
    processor = environment["processor"]
    return f"{_slug(processor['name'])}-{processor['cores']}core-{_slug(processor['capability'])}"


def _slug(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", _NOISE.sub(" ", name).lower())
    return "-".join(words) or "machine"
