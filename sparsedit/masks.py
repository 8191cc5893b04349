"""Masks: which pixels of a picture an edit changes.

A mask is a bool tensor [H, W], true where pixels are edited. It is read from a file or found as the
difference of two pictures, and feathered into a blend. What becomes of it at the resolutions inside a
model is `sparsedit.sparse.SitePyramid`'s matter.
"""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from sparsedit.errors import InputError
from sparsedit.files import check_file
from sparsedit.images import open_image, to_rgb

# A grey level from which a pixel is edited: drawing programs soften the border between black and white.
ACTIVE_LEVEL = 128


def load_mask(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """The mask at `path` as bool [H, W]; `size` is (width, height) of the picture that it belongs to.

    A picture must be grey, and is active from the middle grey up; a `.npy` array [H, W] must hold false and
    true or 0 and 1. Raises InputError for anything else and for another size.
    """
    read = _array_mask if path.suffix.lower() == ".npy" else _picture_mask
    return torch.from_numpy(read(path, size))


def _picture_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    image = open_image(path)
    _check_size(path, image.size, size)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(f"The mask {path} is transparent in places; save it as opaque black and white.")
    levels = np.asarray(to_rgb(image))
    if (levels != levels[..., :1]).any():
        raise InputError(f"The mask {path} has colours; a mask is black where pixels stay and white elsewhere.")
    return levels[..., 0] >= ACTIVE_LEVEL


def _array_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    check_file(path)
    try:
        # Mapped: a header that promises more than the file holds is refused before any memory is taken.
        values = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, SyntaxError, TypeError, tokenize.TokenError, MemoryError) as error:
        raise InputError(f"The mask {path} is not an array of numbers in NumPy's format ({error}).") from None
    if values.ndim == 2:
        _check_size(path, (values.shape[1], values.shape[0]), size)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise InputError(
            f"The mask {path} must be an array [H, W] of false and true or 0 and 1; "
            f"it is {list(values.shape)} of {values.dtype}."
        )
    return np.array(values == 1)


def _check_size(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    if size != tuple(wanted):
        raise InputError(
            f"The mask {path} is {size[0]}x{size[1]} pixels, but its picture is {wanted[0]}x{wanted[1]}; "
            "they must be of the same size."
        )


def difference(a: torch.Tensor, b: torch.Tensor, threshold: float) -> torch.Tensor:
    """Where two pictures [1, 3, H, W] differ by more than `threshold` in some channel: bool [H, W].

    Raises InputError when their sizes differ.
    """
    if a.shape != b.shape:
        sizes = [f"{picture.shape[-1]}x{picture.shape[-2]}" for picture in (a, b)]
        raise InputError(f"The original is {sizes[0]} pixels and the edited picture {sizes[1]}; they must agree.")
    return (a - b).abs_().amax(dim=1)[0] > threshold


def enclosed(lines: torch.Tensor) -> torch.Tensor:
    """Lines (bool [H, W]) with all that they go around."""
    return torch.from_numpy(ndimage.binary_fill_holes(lines.numpy()))


def feather(mask: torch.Tensor, px: int) -> torch.Tensor:
    """Weights float32 [H, W] for blending an edit in: 0 outside the mask, exactly, and at most 1.

    Inside they rise linearly with the euclidean distance to the nearest pixel outside, to 1 from `px` inward.
    The picture's border is no outside. With `px` 0 or 1 the weights are the mask.
    """
    if px <= 1 or bool(mask.all()):
        return mask.float()
    distance = torch.from_numpy(ndimage.distance_transform_edt(mask.cpu().numpy())).to(mask.device)
    return (distance / px).clamp(max=1).float()


def edit_ratio(mask: torch.Tensor) -> float:
    """The share of active pixels, in [0, 1]."""
    return int(torch.count_nonzero(mask)) / mask.numel()
