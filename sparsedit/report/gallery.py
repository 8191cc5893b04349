"""Pictures on a terminal: two pixels a character, the upper as the ink of a half block, the lower as its ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from rich.color import Color
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from sparsedit.images import load_image
from sparsedit.records import Record
from sparsedit.report.page import pictures_of
from sparsedit.report.text import printable

SHOWN = ("original", "edited", "dense", "sparse")
_GAP = 2


def gallery(folder: Path, records: Sequence[Record], width: int) -> RenderableType:
    """The pictures of a run's edits, a row for each, in `width` columns."""
    each = (width + _GAP) // len(SHOWN) - _GAP
    parts: list[RenderableType] = []
    for record in records:
        found = pictures_of(folder, record)
        shown = {name: load_image(found[name]) for name in SHOWN if name in found}
        if shown:
            parts += [
                Text(printable(f"{record['case']}/{record['variant']}"), style="bold"),
                strip(shown, each),
                Text(),
            ]
    return Group(*parts)


def strip(pictures: Mapping[str, Image.Image], width: int) -> Text:
    """Pictures side by side with their names below, each `width` columns wide."""
    blocks = [half_blocks(picture, width) for picture in pictures.values()]
    height = max(map(len, blocks))
    lines = []
    for row in range(height):
        cells = (block[row] if row < len(block) else Text(" " * width) for block in blocks)
        lines.append(Text(" " * _GAP).join(cells))
    names = Text((" " * _GAP).join(f"{name[:width]:{width}}" for name in pictures), style="dim")
    return Text("\n").join([*lines, names])


def half_blocks(picture: Image.Image, width: int) -> list[Text]:
    """The picture as lines of `width` half blocks."""
    rows = max(round(width * picture.height / picture.width / 2), 1)
    small = picture.convert("RGB").resize((width, 2 * rows), Image.Resampling.BOX)
    lines = []
    for row in range(rows):
        line = Text()
        for column in range(width):
            upper, lower = (_colour(small, column, 2 * row + half) for half in (0, 1))
            line.append("▀", Style(color=upper, bgcolor=lower))
        lines.append(line)
    return lines


def _colour(picture: Image.Image, x: int, y: int) -> Color:
    pixel = picture.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return Color.from_rgb(*pixel)
