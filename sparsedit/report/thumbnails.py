"""Some of a bench's edits in small pictures that its page holds itself: a few of every type, all ways side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsedit.images import load_image
from sparsedit.records import Record
from sparsedit.report.numbers import figure
from sparsedit.report.pictures import SHARED, find_pictures

OF_A_TYPE = 2
MOST = 20
SIDE = 192
"""Pixels of a thumbnail, at most."""

_CAPTIONS = {"original": "original", "edited": "edited, as given", "mask": "what may change", "dense": "dense"}


@dataclass(frozen=True)
class Thumbnail:
    """A picture with its caption; `source` is a data URI."""

    caption: str
    source: str


@dataclass(frozen=True)
class Strip:
    """One edit: what it was made of, and what each way made."""

    title: str
    pictures: tuple[Thumbnail, ...]


def strips(records: Sequence[Record], runs: Sequence[Path]) -> list[Strip]:
    """The first edits of every type whose pictures the runs' folders have, under their bench's first configuration."""
    edits: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["status"] == "ok" and record["bench"]["configuration"] == records[0]["bench"]["configuration"]:
            edits.setdefault((record["case"], record["variant"]), []).append(record)
    shown: Counter[str | None] = Counter()
    made: list[Strip] = []
    for own in edits.values():
        kind = own[0].get("edit_type")
        if shown[kind] == OF_A_TYPE or len(made) == MOST:
            continue
        found = {record["bench"]["way"]: (record, find_pictures(runs, record)) for record in own}
        if pictures := tuple(_pictures(found)):
            shown[kind] += 1
            made.append(Strip(" · ".join(filter(None, (kind, own[0]["case"], own[0]["edit_prompt"]))), pictures))
    return made


def _pictures(found: Mapping[str, tuple[Record, Mapping[str, Path]]]) -> Iterator[Thumbnail]:
    first = next(iter(found.values()))[1]
    yield from (Thumbnail(_CAPTIONS[name], _source(first[name])) for name in SHARED if name in first)
    for way, (record, files) in found.items():
        if "sparse" in files:
            psnr = ((record.get("fidelity") or {}).get("inside") or {}).get("psnr")
            yield Thumbnail(way + (f", {figure(psnr)} dB" if psnr else ""), _source(files["sparse"]))


def _source(path: Path) -> str:
    picture, buffer = load_image(path), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
