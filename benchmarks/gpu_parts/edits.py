"""The published edits as masks: from the published pictures where they are at hand, else drawn with the same outline.

SDEdit 0 changes a blob, nearly an ellipse, of 1.72 % of 512x1024 pixels; the inpainting mask is a rectangle of 11.6 %.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedit.sparse import SitePyramid, dilate

HEIGHT, WIDTH = 512, 1024
THRESHOLD, GROW, VAE_MARGIN = 0.02, 5, 8
"""The mask policy `tight`, said here once more so that pydantic is not needed on the GPU's machine."""

PUBLISHED = "published pictures"
DRAWN = "drawn with the published outline and ratio: the published pictures were not given (--data)"


def drawn_edits() -> dict[str, Tensor]:
    """Both masks [512, 1024], from their outlines alone."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rectangle = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    rectangle[280:470, 590:910] = True
    return {"sdedit0": ((y - 90) / 52).square() + ((x - 419.5) / 55.3).square() <= 1, "inpaint": rectangle}


def published_edits(data: Path) -> dict[str, Tensor]:
    """Both masks [512, 1024], from the pictures in `data` (see manifests/sige.yaml)."""
    from sparsedit.images import load_image, to_tensor
    from sparsedit.masks import difference, load_mask

    original, edited = (to_tensor(load_image(data / f"sdedit0_{name}.png")) for name in ("original", "edited"))
    return {
        "sdedit0": difference(original, edited, THRESHOLD),
        "inpaint": load_mask(data / "inpaint_mask.npy", (WIDTH, HEIGHT)),
    }


def on_canvas(mask: Tensor, height: int, width: int) -> Tensor:
    """The same edited pixels in the middle of a larger picture, or thinned out for a picture shrunk by whole steps."""
    if width < WIDTH:
        mask = mask[:: WIDTH // width, :: WIDTH // width]
    above = (height - mask.shape[0]) // 2
    return F.pad(mask, (0, 0, above, height - mask.shape[0] - above))


def unet_sites(mask: Tensor) -> SitePyramid:
    return SitePyramid.from_mask(dilate(mask, GROW))


def vae_sites(mask: Tensor) -> SitePyramid:
    return SitePyramid.from_mask(dilate(dilate(mask, GROW), VAE_MARGIN))
