"""The latents an original passes through: what surrounds an edit at every step of it.

A run can make its trajectory itself (a picture generated from noise) or be held to one that is known beforehand (an
inverted picture, a photo noised by hand). Held to one, the model's own step ends beside it; that difference is kept,
and edits add it too, so that an edit that changes nothing stays on the original's trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trajectory:
    """`latents` [1, C, h, w] before the first step and after each; `corrections`, by step, where there are any."""

    latents: list[Tensor]
    corrections: list[Tensor] = field(default_factory=list)

    def extend(self, step: int, latents: Tensor) -> Tensor:
        """Take what a step left as the next latents."""
        self.latents.append(latents)
        return latents

    def hold(self, step: int, latents: Tensor) -> Tensor:
        """Lead what a step left back to the trajectory, and remember by how much."""
        known = self.latents[step + 1]
        self.corrections.append(known - latents)
        return known

    def correct(self, step: int, latents: Tensor) -> Tensor:
        """What an edit's step left, moved as the original's was."""
        return latents + self.corrections[step] if self.corrections else latents

    def surround(self, step: int, latents: Tensor, cells: Tensor) -> Tensor:
        """What a step left at the `cells` (bool [h, w]), and the original's latents around them."""
        return torch.where(cells.to(latents.device), latents, self.latents[step + 1])
