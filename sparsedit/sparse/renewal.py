"""What a thin pass made anew, held until it is written into the recording that the pass ran upon.

At its sites a thin pass computes just what a recording of the edited picture would hold there. Written back, it makes
the recording that of the edited picture, as far as a thin pass can tell: the next edit starts from this one, and
nothing ran densely. Nothing is written before it is asked for, so a pass that fails leaves the recording as it was; it
takes memory in proportion to its sites, for as long as it is held.

Norms that keep the original's statistics keep them here too; those that follow an edit are written with the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse.cache import Renewable, Step, TextMemory, put
from sparsedit.sparse.sites import SitePyramid

if TYPE_CHECKING:
    from sparsedit.sparse.leaves import Leaf


@dataclass
class Fresh:
    """Of one thin call: by run of a leaf what it would remember of its active sites, and the outputs [B, C, N, 1]."""

    leaves: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)


class Renewal:
    """The calls of one thin pass over a recording, `texts` being the prompts it knows."""

    def __init__(self, cache: Renewable, sites: SitePyramid, leaves: Iterable[Leaf], texts: TextMemory) -> None:
        self.cache = cache
        self.sites = sites
        self.leaves = {leaf.name: leaf for leaf in leaves}
        self.texts = texts
        self.calls: list[Fresh] = []

    def write(self) -> None:
        """Make the recording that of the edit, in place. What stops it midway leaves the recording half of each.

        Raises EngineError, before anything is written, when the pass did not run to its end; CacheError for a recording
        that was cut down to the rows around some masks.
        """
        if len(self.calls) != len(self.cache):
            raise EngineError(
                f"{len(self.calls)} of {len(self.cache)} recorded calls were made anew, so the recording stays as it "
                "was; run the edit over the whole schedule"
            )
        if self.sites.empty:
            return
        with torch.inference_mode():  # in which alone tensors made in it can be written to
            for number, fresh in enumerate(self.calls):
                home = self.cache.home(number)
                if home is not None:
                    self._write(home, fresh)
        self.cache.texts.adopt(self.texts)

    def _write(self, home: Step, fresh: Fresh) -> None:
        for run, tensors in fresh.leaves.items():
            self.leaves[run.partition("#")[0]].write(home.leaves[run], self.sites, tensors)
        for output, thin in zip(home.outputs, fresh.outputs, strict=True):
            index = self.sites.level((output.shape[2], output.shape[3])).index
            put(output.flatten(2).transpose(1, 2), index, thin.squeeze(-1).transpose(1, 2))
