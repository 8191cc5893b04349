"""The levers on a recording's size: how a step is made smaller before it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sparsedit.sparse import SitePyramid
from sparsedit.sparse.cache import Step
from sparsedit.sparse.halo import Halos
from sparsedit.sparse.int8 import in_int8
from sparsedit.sparse.survey import find_leaves


@dataclass(frozen=True)
class Compaction:
    """`int8` holds keys and values in eight bits. `sites`, for every stage those of all edits to come, keeps of
    convolutions' maps only what these edits read; None keeps all."""

    int8: bool = False
    sites: Mapping[str, Sequence[SitePyramid]] | None = None

    def of_stage(self, stage: str, model: nn.Module) -> Callable[[Step], Step]:
        """What makes a step of a stage smaller; of `model` only its geometry is looked at."""
        halos = None if self.sites is None else Halos(find_leaves(model), self.sites[stage])

        def compact(step: Step) -> Step:
            step = step if halos is None else halos.cut(step)
            return in_int8(step) if self.int8 else step

        return compact

    def fields(self) -> dict[str, str]:
        """What a fingerprint says of it."""
        return {"precision": "int8" if self.int8 else "native", "rows": "all" if self.sites is None else self._masks()}

    def _masks(self) -> str:
        digest = hashlib.sha256()
        for stage, pyramids in sorted((self.sites or {}).items()):
            for pyramid in pyramids:
                digest.update(f"{stage} {list(pyramid.size)} {pyramid.level_dilation}\n".encode())
                digest.update(pyramid.mask.numpy().tobytes())
        return digest.hexdigest()[:16]
