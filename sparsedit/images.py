"""Pictures in and out: files, RGB pictures, tensors.

What comes in may be hostile or merely broken, so only five formats are opened, the size is read from the
header before a pixel is decoded, and every fault is a sentence that names the file. Sizes are never changed,
and colour profiles are not applied: the numbers in the file are the numbers that are edited.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from sparsedit.errors import EngineError, InputError
from sparsedit.files import check_file, write_atomic

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
VARIABLE = "SPARSEDIT_MAX_PIXELS"
"""Names the environment variable that sets another limit."""
PILLOWS_LIMIT = 178_956_970
"""From more pixels on Pillow refuses a picture itself."""

_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
# What Pillow's decoders raise on broken data, found by feeding them such data.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error)


def load_image(path: Path, *, max_pixels: int | None = None) -> Image.Image:
    """The picture at `path` as RGB, upright as its EXIF orientation says, transparency on white.

    Raises InputError when it is missing, unreadable, broken, animated or larger than `max_pixels`, for which
    `pixel_limit` stands in.
    """
    return to_rgb(open_image(path, max_pixels=max_pixels))


def open_image(path: Path, *, max_pixels: int | None = None) -> Image.Image:
    """The picture at `path`, decoded and upright, in a mode that `to_rgb` takes. Raises as `load_image`."""
    check_file(path)
    try:
        # Pillow's own limit only warns, and ours is lower.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            _check_header(image, path, pixel_limit() if max_pixels is None else max_pixels)
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise InputError(f"{path} is not a PNG, JPEG, WebP, BMP or TIFF picture.") from None
    except (*_BROKEN, zlib.error, MemoryError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be decoded ({error or type(error).__name__}).") from None


def pixel_limit(variables: Mapping[str, str] = os.environ) -> int:
    """The most pixels that a picture may have. Raises InputError for a variable that says no number."""
    said = variables.get(VARIABLE) or str(MAX_PIXELS)
    if not said.isdecimal() or not 0 < int(said) <= PILLOWS_LIMIT:
        raise InputError(f"{VARIABLE} must be a number of pixels from 1 to {PILLOWS_LIMIT}, not {said!r}")
    return int(said)


def _check_header(image: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{path} has {width}x{height} = {width * height / 1e6:.1f} million pixels; "
            f"at most {max_pixels / 1e6:g} million are read. {VARIABLE} sets another limit."
        )
    frames = getattr(image, "n_frames", 1)
    # MPO is what phones write: a JPEG followed by previews or gain maps; its first picture is the photo.
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{path} has {frames} frames; a picture must have one.")
    if image.mode not in (*_PLAIN, *_WITH_ALPHA, *_GREY_16):
        raise InputError(f"{path} has pixels of kind {image.mode}, which have no fixed white; save it with 8 bits.")


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB: 16-bit grey scaled to 8 bits, transparency on white, metadata left behind."""
    if image.mode in _GREY_16:
        image = _grey_8(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info.clear()
    return image


def _grey_8(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    # One exact 16-bit level is transparent; on 8 bits it could not be told from its neighbours.
    grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB picture as float32 [1, 3, H, W] with values in [-1, 1]."""
    levels = torch.from_numpy(np.array(image.convert("RGB")))
    return levels.permute(2, 0, 1)[None].contiguous().float() / 127.5 - 1


def to_image(tensor: torch.Tensor) -> Image.Image:
    """A tensor [1, 3, H, W] as a picture: values in [-1, 1] rounded to 8 bits, beyond them clipped.

    The inverse of `to_tensor`, exactly. Raises EngineError for another shape and for NaN or infinity.
    """
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3):
        raise EngineError(f"A picture is a tensor [1, 3, H, W], not {list(tensor.shape)}.")
    values = tensor.detach().to("cpu", torch.float32)
    if not values.isfinite().all():
        raise EngineError(
            "The picture that was computed contains values that are not finite: the model overflowed. "
            "Try --dtype float32."
        )
    levels = ((values + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(levels[0].permute(1, 2, 0).contiguous().numpy())


def save_image(image: Image.Image, path: Path) -> None:
    """Write the picture as PNG, whole or not at all. Raises InputError when `path` cannot be written."""
    write_atomic(path, png(image))


def png(image: Image.Image, *, fast: bool = False) -> bytes:
    """The picture as a PNG file; a `fast` one takes a quarter of the time and is about as large."""
    buffer = io.BytesIO()
    options = {"compress_level": 1, "compress_type": zlib.Z_RLE} if fast else {"compress_level": 6}
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()
