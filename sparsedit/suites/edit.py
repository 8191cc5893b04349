"""A suite as it is run: its edits in words, and the pictures of one edit when its turn comes.

Whatever a suite is made of (scenes that are drawn, PIE-Bench's folder, a manifest), it comes to this. What was said of
an edit is cheap, may be sorted, counted and sent to another process; pictures are opened one edit at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sparsedit.suites.item import SuiteItem
from sparsedit.suites.rle import Mask

ONLY = "edit"
"""The variant's name where a case has one."""

GIVEN, DERIVED = "mask-given", "mask-derived"
TRACKS = (GIVEN, DERIVED)
"""Whether an edit is told where it belongs, or has to find out from the edited picture."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The pictures of one edit, RGB and of one size.

    `edited` is what SDEdit starts from, `mask` (bool [H, W]) what the suite says is to be edited, `truth` what the edit
    should have made; a suite need not have them.
    """

    original: Image.Image
    edited: Image.Image | None = None
    mask: Mask | None = None
    truth: Image.Image | None = None


@dataclass(frozen=True)
class SuiteEdit:
    """One edit: `prompt` is the original's, `settings` what the suite says of it, each layer overriding those before.

    `has_edited` and `has_mask` say what `open` will find; it raises InputError for pictures that cannot be used.
    `track` is the one where nobody says.
    """

    case: str
    variant: str
    edit_type: str | None
    prompt: str
    edit_prompt: str
    open: Callable[[], Inputs] = field(repr=False)
    has_edited: bool
    has_mask: bool
    track: str
    settings: tuple[Mapping[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return self.case if self.variant == ONLY else f"{self.case}/{self.variant}"


@dataclass(frozen=True)
class Suite:
    """A suite by its name; `data` identifies what it is made of, so that a change of it can be told.

    `model` and `settings` are what it asks for, where it does.
    """

    name: str
    edits: tuple[SuiteEdit, ...]
    data: Mapping[str, Any]
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def item_edit(item: SuiteItem, *, has_edited: bool) -> SuiteEdit:
    """An item of a suite in PIE-Bench's manner: SDEdit where strokes are painted, else the mask is made anew."""
    return SuiteEdit(
        case=item.id,
        variant=ONLY,
        edit_type=item.edit_type_name,
        prompt=item.source_prompt,
        edit_prompt=item.target_prompt,
        open=_Opening(item),
        has_edited=has_edited,
        has_mask=True,
        track=DERIVED if has_edited else GIVEN,
        settings=({"task": "sdedit" if has_edited else "inpaint"},),
    )


@dataclass(frozen=True)
class _Opening:
    """Draws or reads an item's pictures; a class, because processes hand it to each other."""

    item: SuiteItem

    def __call__(self) -> Inputs:
        pictures = self.item.pictures()
        return Inputs(pictures.original, pictures.painted, pictures.mask, pictures.truth)
