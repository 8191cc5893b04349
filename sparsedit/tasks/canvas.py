"""A canvas that has moved (tasks pan and rotate): the empty area is made anew among what stays visible.

What stays visible is known at every step of the schedule: the picture's latents and its noise, moved alike, so that
what was recorded of the original still surrounds the empty area, moved too. For one canvas that did not move this is
stock inpainting, with the same noise.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedit.noise import draw, generators
from sparsedit.schedule import Schedule
from sparsedit.sparse import Motion
from sparsedit.stages import OnStep, Stages
from sparsedit.tasks.generation import generate
from sparsedit.trajectory import Trajectory
from sparsedit.ways import Way


@dataclass(frozen=True)
class Canvas:
    """Latents [1, 4, h, w] of a picture, the noise over them, and noise for what comes into view.

    `moves` motions have led to it, which have `panned` it by so many pixels (right, down).
    """

    latents: Tensor
    noise: Tensor
    fresh: Tensor
    moves: int = 0
    panned: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, stages: Stages, way: Way, picture: Tensor, seed: int) -> Canvas:
        """Encode a picture [1, 3, H, W]; noise is drawn in the order in which stock inpainting draws it."""
        noise = generators(1, seed)
        with way.around("encoder", stages.vae.encoder):
            latents = stages.encode(picture, noise)
        return cls(latents, draw(latents, noise), draw(latents, noise))

    def moved(self, motion: Motion, encoded: Tensor, cells: Tensor | None) -> Canvas:
        """The canvas after a motion, with the latents that were `encoded` of it: at `cells` (bool [h, w]), or all."""
        size = (encoded.shape[2], encoded.shape[3])
        empty = motion.left_empty(size).to(encoded.device)
        latents = encoded if cells is None else torch.where(cells, encoded, motion.move(self.latents))
        # Between its sites noise would be weaker than noise is.
        noise = torch.where(empty, self.fresh, motion.move(self.noise, nearest=True))
        return replace(self, latents=latents, noise=noise)

    def following(self, by: tuple[int, int] | None, seed: int) -> Canvas:
        """The canvas that the next motion starts from, once one `by` pixels or a turn has been made: with other noise
        for what comes into view, or two strips side by side would be made from the same."""
        moves, (right, down) = self.moves + 1, by or (0, 0)
        fresh = draw(self.fresh, generators(1, seed + 1 + moves))
        return replace(self, fresh=fresh, moves=moves, panned=(self.panned[0] + right, self.panned[1] + down))

    def trajectory(self, stages: Stages, schedule: Schedule) -> Trajectory:
        """What is known of it before every step of the schedule, and after the last."""
        scheduler = copy.deepcopy(stages.pipe.scheduler)
        scheduler.set_timesteps(schedule.steps, device=stages.device)
        timesteps = scheduler.timesteps[(schedule.steps - schedule.calls) * scheduler.order :]
        path = [scheduler.add_noise(self.latents, self.noise, timestep[None]) for timestep in timesteps]
        if schedule.strength == 1:
            path[0] = self.noise * stages.noise_scale(schedule)
        return Trajectory([*path, self.latents])


def outpaint(
    stages: Stages,
    way: Way,
    canvas: Canvas,
    cells: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    seed: int,
    on_step: OnStep,
) -> tuple[Tensor, Tensor]:
    """Make the `cells` (bool [h, w]) of a canvas anew -> the picture [1, 3, H, W] and its latents."""
    trajectory = canvas.trajectory(stages, schedule)
    noise = generators(1, seed + 1)  # what stochastic schedulers draw

    def renew(step: int, latents: Tensor) -> Tensor:
        return trajectory.surround(step, latents, cells)

    start = trajectory.latents[0]
    return generate(stages, way, start, prompts, negative, schedule, noise, on_step, renew=renew)


def moved_picture(picture: Tensor, motion: Motion) -> Tensor:
    """A picture [1, 3, H, W] after a motion; what comes into view mirrors it at its border."""
    height, width = picture.shape[-2:]
    y, x = (torch.from_numpy(axis).float() for axis in motion.positions((height, width)))
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)[None]
    turned = F.grid_sample(picture, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(-1, 1)
    if not motion.exact((height, width)):
        return turned
    return torch.where(motion.left_empty((height, width)), turned, motion.move(picture))
