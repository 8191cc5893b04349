"""The last stage of every task, with a second try: a VAE that overflows in half precision decodes again in float32.

Such a picture is not a number anywhere, or black everywhere. SDXL's own VAE is known for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedit.errors import ModelError
from sparsedit.stages import Stages
from sparsedit.ways import Dense, Renewing, Thin, Way

_WIDENED = "the VAE's picture was black or no number in {}, so it was decoded again in float32"


def decode(stages: Stages, way: Way, latents: Tensor) -> Tensor:
    """Latents [P, 4, h, w] -> pictures [P, 3, H, W] in [-1, 1]; the way's notes say where it took float32.

    Raises ModelError where float32 cannot decode them either.
    """
    half = stages.vae.dtype
    pictures = _decode(stages, way, latents)
    if stages.decoder_dtype != torch.float32 and not sound(pictures):
        if isinstance(way, Renewing):
            raise ModelError(
                f"the VAE's picture was black or no number in {half}, in which it was recorded, so the edit cannot be "
                "kept; record the original in float32 (--dtype float32)"
            )
        stages.set_decoder_dtype(torch.float32)
        if isinstance(way, Thin):  # what it reads was recorded in half precision, and stays good for other edits
            pictures = _decode(stages, Dense(way.clock), latents)
            stages.set_decoder_dtype(half)
        else:
            pictures = _decode(stages, way, latents)
        way.notes.append(_WIDENED.format(half))
    elif stages.decoder_dtype != half:
        way.notes.append(_WIDENED.format(half))
    if not bool(pictures.isfinite().all()):
        raise ModelError("the VAE decodes these latents to no picture, in float32 either; its weights may be damaged")
    return pictures


def sound(pictures: Tensor) -> bool:
    """Whether every picture is one: finite, and not black all over."""
    return bool((pictures.flatten(1).amax(1) > -1).all() and pictures.isfinite().all())


def _decode(stages: Stages, way: Way, latents: Tensor) -> Tensor:
    with way.around("decoder", stages.vae.decoder):
        return stages.decode(latents)
