"""Pictures side by side, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from sparsedit.files import write_atomic
from training.pictures import Picture


def grid(pictures: Picture | Sequence[Picture], columns: int) -> Picture:
    """Equal pictures [H, W, 3] in rows of `columns` as one; what a last row lacks stays white."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = picture
    return sheet


def enlarge(picture: Picture, factor: int) -> Picture:
    """Every pixel of a picture [H, W, 3] as a square of `factor` pixels on a side."""
    return np.repeat(np.repeat(picture, factor, 0), factor, 1)


def write_png(picture: Picture, path: Path) -> None:
    """Write a picture [H, W, 3], its folder made when it is missing."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())
