"""What a run scores of each edit: sparse against dense, and the edit against its original by `pnp-v1`."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from sparsedit.metrics.fidelity import fidelity
from sparsedit.metrics.pixels import Mask
from sparsedit.metrics.protocol import PNP_V1
from sparsedit.metrics.scorer import Pair, Scorer, Scores


class Judge:
    """Scores edits on `device` with the networks that are on this machine; `missing` names those that are not."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.scorer = Scorer(PNP_V1, device=device)
        self.missing = self.scorer.missing

    def fidelity(self, sparse: Image.Image, dense: Image.Image, regions: dict[str, Mask]) -> dict[str, Any]:
        """Scores by `sparse-vs-dense`, of each region and of the whole picture."""
        return fidelity(sparse, dense, regions, self.scorer.lpips)

    def truth(self, edit: Image.Image, truth: Image.Image, mask: Mask) -> dict[str, Any]:
        """Scores by `sparse-vs-dense` inside the mask, of an edit against what it should have made."""
        return fidelity(edit, truth, {"inside": mask}, self.scorer.lpips, whole=False)

    def quality(self, original: Image.Image, edit: Image.Image, mask: Mask, prompt: str) -> Scores:
        """The edit by `pnp-v1`, `mask` being what was edited."""
        return self.scorer.score(Pair(original, edit, mask, prompt))
