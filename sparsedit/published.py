"""Figures that other systems publish, with where they stand and what they leave out.

`benchmarks/published/*.yaml` holds one table per file; a wheel carries them beside this module. They are shown beside
our own and always marked as published: other hardware, other libraries, and sometimes another idea of what is counted
(`counts`) or of what belongs to an edit (`leaves_out`). Nothing is measured or compared here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sparsedit.documents import Document, read_document
from sparsedit.errors import InputError, shown

_IN_WHEEL = Path(__file__).with_name("published_tables")
_IN_CHECKOUT = Path(__file__).parents[1] / "benchmarks" / "published"


def _pair(value: object) -> object:
    return value if isinstance(value, list) else [value, value]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"must be a number or [lowest, highest], not {shown(list(ends))}")
    return ends


Interval = Annotated[tuple[float, float], Field(strict=False), BeforeValidator(_pair), AfterValidator(_ordered)]
"""A figure as (lowest, highest), which are equal where one number was published."""
Words = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Figures(_Strict):
    """What a table gives beside multiply-adds and milliseconds; ratios are against the same model run densely.

    `structure` is the distance of DINO self-similarities, `dino` a distance too; CLIP scores are 0 to 100.
    """

    speedup: Interval | None = None
    macs_ratio: Interval | None = None
    fps: Interval | None = None
    psnr: Interval | None = None
    ssim: Interval | None = None
    lpips: Interval | None = None
    mse: Interval | None = None
    clip: Interval | None = None
    clip_edited: Interval | None = None
    structure: Interval | None = None
    dino: Interval | None = None
    fid: Interval | None = None


class _Conditions(_Strict):
    """Under what a figure was taken: said once for a table, or by a row for itself."""

    hardware: Words | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    size: Annotated[tuple[Whole, Whole], Field(strict=False)] | None = None
    batch: Whole | None = None
    counts: Words | None = None
    leaves_out: Words | None = None
    protocol: Literal["pnp-v1", "whole-v1"] | None = None


class _Row(_Conditions):
    model: Words
    preset: Words | None = None
    case: Words
    stage: Literal["encoder", "unet", "decoder", "generator", "total"]
    edit_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    gmacs: Positive | None = None
    ms: Positive | None = None
    figures: Figures = Figures()
    note: Words | None = None


class _Table(_Conditions):
    system: Words
    year: Whole
    source: Words
    rows: Annotated[list[_Row], Field(min_length=1)]


class PublishedRow(_Row):
    """One row of a published table.

    `gmacs`: 1e9 multiply-adds of one call of `stage`; `counts` says of which layers. `ms`: milliseconds of one call, of
    a whole picture where the stage is "total". `preset`: our model of this architecture, whose counts can stand
    beside it. `size`: (width, height) of the picture in pixels. `case`: "dense", or the edit; `edit_ratio`: the share
    of pixels it changes. `leaves_out`: what a reader would expect the figure to hold and it does not.
    """

    system: Words
    year: Whole
    source: Words


def load_published(folder: Path | None = None) -> list[PublishedRow]:
    """Every row of the tables in `folder` (by default those that come with the package), by file name and in order.

    Raises InputError naming the file, the key and its line for whatever is unknown, missing or of the wrong type.
    """
    if folder is None:
        folder = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise InputError(f"{folder} holds no published tables (*.yaml).")
    return [row for path in paths for row in _rows(read_document(path, InputError))]


def _rows(document: Document) -> list[PublishedRow]:
    table = document.validate(_Table)
    shared = {name: value for name, value in table if name != "rows"}
    rows = [PublishedRow(**shared | _said(row)) for row in table.rows]
    if faults := list(_faults(rows, document)):
        raise document.refusal(faults)
    return rows


def _said(row: _Row) -> dict[str, object]:
    return {name: value for name, value in row if name in row.model_fields_set}


def _faults(rows: list[PublishedRow], document: Document) -> Iterator[str]:
    """What a row lacks once its table's conditions are known, each fault with its place."""
    first: dict[object, int] = {}
    for index, row in enumerate(rows):
        place = document.place(("rows", index))
        if row.gmacs is None and row.ms is None and row.figures == Figures():
            yield f"{place}: gives no figure; add gmacs, ms or figures"
        if row.gmacs is not None and row.counts is None:
            yield f"{place}: gives gmacs, so 'counts' must say what was counted"
        if row.ms is not None and row.hardware is None:
            yield f"{place}: gives ms, so 'hardware' must say on what"
        earlier = first.setdefault((row.model, row.case, row.stage, row.hardware, row.size), index)
        if earlier != index:
            yield f"{place}: is {document.place(('rows', earlier))} again: same model, case, stage, hardware and size"
