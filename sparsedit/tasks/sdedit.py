"""SDEdit (Meng et al., 2021): strokes on a picture become part of it by noising and denoising the whole.

Of every picture in the batch the whole schedule runs; what of it is computed is the way's matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sparsedit.stages import OnStep, Schedule, Stages, generators
from sparsedit.ways import Way


def sdedit(
    stages: Stages,
    way: Way,
    pictures: Tensor,
    prompts: Sequence[str],
    negative: str,
    schedule: Schedule,
    seed: int,
    on_step: OnStep,
) -> tuple[Tensor, Tensor]:
    """Pictures [P, 3, H, W] in [-1, 1] and a prompt for each -> the results and their latents."""
    noise = generators(len(pictures), seed)
    text = stages.text(prompts, negative, schedule)
    with way.around("encoder", stages.vae.encoder):
        latents = stages.encode(pictures, noise)
    with way.around("unet", stages.unet):
        latents = stages.denoise(latents, text, schedule, noise, on_step)
    with way.around("decoder", stages.vae.decoder):
        return stages.decode(latents), latents
