"""PIE-Bench's folder: read strictly, and written for suites of our own.

    DIR/mapping_file.json                          id -> prompts, instruction, type, words to blend, mask, image_path
    DIR/annotation_images/<image_path>             the originals
    DIR/edited_images/<image_path>                 what the edits should have made; our addition, PIE-Bench has none

The layout is that of Ju et al., "PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code" (ICLR 2024).
The mapping is read once and whole, pictures one by one when they are asked for. The Hugging Face copy of the images
has other prompts and masks and is not read here.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, ValidationInfo

from sparsedit.errors import InputError, sentences, shown
from sparsedit.files import check_file, file_fault, write_atomic
from sparsedit.manifest import Id
from sparsedit.suites.item import EDIT_TYPES, Pictures, SuiteItem
from sparsedit.suites.rle import Mask, decode, encode, runs_fault

MAPPING = "mapping_file.json"
ORIGINALS = "annotation_images"
TRUTHS = "edited_images"

# PIE-Bench's folders are these names between the type and the number of pictures: 4_change_attribute_content_40.
FOLDERS = (
    "random",
    "change_object",
    "add_object",
    "delete_object",
    "change_attribute_content",
    "change_attribute_pose",
    "change_attribute_color",
    "change_attribute_material",
    "change_background",
    "change_style",
)

_MAX_BYTES = 100_000_000
_SHOWN_FAULTS = 10
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class PieItem(SuiteItem):
    """An edit of a PIE-Bench folder: where its pictures lie and the runs of its mask."""

    original: Path
    truth: Path | None
    runs: tuple[int, ...]

    def pictures(self) -> Pictures:
        # Not at the top: it imports torch, which choosing and planning do without.
        from sparsedit.images import load_image

        original = load_image(self.original)
        truth = None if self.truth is None else load_image(self.truth)
        if truth is not None and truth.size != original.size:
            raise InputError(f"{self.truth} and {self.original} are of different sizes; they must be the same.")
        try:
            mask = decode(self.runs, original.height, original.width)
        except InputError as error:
            raise InputError(f"The mask of {self.id} does not fit {self.original}. {error}") from None
        return Pictures(original, mask, truth=truth)


def with_border(mask: Mask) -> Mask:
    """The mask with its outermost pixels set: what PIE-Bench's evaluator scores with, against errors at the edge."""
    bordered = mask.copy()
    bordered[[0, -1], :] = True
    bordered[:, [0, -1]] = True
    return bordered


def load_pie(folder: Path) -> list[PieItem]:
    """The edits of a PIE-Bench folder, in the order of its mapping; no picture is opened.

    Raises InputError when the mapping is missing or no JSON, or says something that cannot be: an unknown type, a
    picture that is not there or lies outside the folder, runs that are no mask.
    """
    path = folder / MAPPING
    if not path.exists():
        raise InputError(f"{folder} is no PIE-Bench folder: it has no {MAPPING}.")
    originals, truths = (folder / ORIGINALS).resolve(), (folder / TRUTHS).resolve()
    roots = [originals, truths] if truths.is_dir() else [originals]
    try:
        mapping = _Mapping.model_validate(_read_json(path), context=roots)
    except ValidationError as error:
        raise InputError(_all_faults(path, sentences(error, _Entry))) from None
    return [_item(name, entry, roots) for name, entry in mapping.root.items()]


def write_pie(items: Sequence[SuiteItem], folder: Path) -> None:
    """Write edits as a PIE-Bench folder, the mapping last: a folder without one was not finished.

    Originals are JPEGs, which is lossy; truths likewise where the suite has them. Raises InputError when `folder`
    holds anything or cannot be written.
    """
    counts = Counter(item.edit_type for item in items)
    _make_folder(folder)
    if any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new folder.")
    mapping = {}
    for item in items:
        number = item.edit_type
        image_path = f"{number}_{FOLDERS[number]}_{counts[number]}/{item.id}.jpg"
        pictures = item.pictures()
        _write_jpeg(pictures.original, folder / ORIGINALS / image_path)
        if pictures.truth is not None:
            _write_jpeg(pictures.truth, folder / TRUTHS / image_path)
        mapping[item.id] = _described(item, image_path, pictures.mask)
    write_atomic(folder / MAPPING, json.dumps(mapping).encode())


def _described(item: SuiteItem, image_path: str, mask: Mask) -> dict[str, Any]:
    return {
        "image_path": image_path,
        "original_prompt": item.bracketed_source,
        "editing_prompt": item.bracketed_target,
        "editing_instruction": item.instruction,
        "editing_type_id": str(item.edit_type),
        "blended_word": item.blended_word,
        "mask": encode(mask),
    }


def _write_jpeg(image: Image.Image, path: Path) -> None:
    _make_folder(path.parent)
    data = io.BytesIO()
    image.save(data, format="JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4")
    write_atomic(path, data.getvalue())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}).") from error


def _read_json(path: Path) -> object:
    check_file(path)
    with path.open("rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES // 1_000_000} MB.")
    try:
        return json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON that can be read ({error}).") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys may not come twice; plain json keeps the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} comes twice")
    return found


def _all_faults(path: Path, faults: Sequence[str]) -> str:
    if len(faults) == 1:
        return f"{path}: {faults[0]}"
    more = len(faults) - _SHOWN_FAULTS
    listed = [*faults[:_SHOWN_FAULTS], *([f"and {more} more"] if more > 0 else [])]
    return "\n  ".join([f"{path} has {len(faults)} errors:", *listed])


def _checked_path(text: str, info: ValidationInfo) -> str:
    """The path, if a picture lies there under every root of the validation's context."""
    assert isinstance(info.context, list)
    for root in info.context:
        try:
            path = (root / text).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{shown(text)} cannot be followed ({error})") from None
        if not path.is_relative_to(root):
            raise ValueError(f"{shown(text)} lies outside {root}")
        if fault := file_fault(path):
            raise ValueError(f"{shown(text)} {fault} (sought in {root})")
    return text


def _checked_type(text: str) -> str:
    if text not in map(str, EDIT_TYPES):
        raise ValueError(f'must be one of "0" to "{max(EDIT_TYPES)}", not {shown(text)}')
    return text


def _checked_runs(runs: list[int]) -> list[int]:
    if fault := runs_fault(runs):
        raise ValueError(f"is no mask: {fault}")
    return runs


class _Entry(BaseModel):
    """One edit as the mapping has it; keys that PIE-Bench does not have are not read."""

    model_config = ConfigDict(strict=True, frozen=True)

    image_path: Annotated[str, AfterValidator(_checked_path)]
    original_prompt: str
    editing_prompt: str
    editing_instruction: str
    editing_type_id: Annotated[str, AfterValidator(_checked_type)]
    blended_word: str
    mask: Annotated[list[int], AfterValidator(_checked_runs)]


class _Mapping(RootModel[Annotated[dict[Id, _Entry], Field(min_length=1)]]):
    pass


def _item(name: str, entry: _Entry, roots: Sequence[Path]) -> PieItem:
    pictures = [root / entry.image_path for root in roots]
    return PieItem(
        id=name,
        edit_type=int(entry.editing_type_id),
        bracketed_source=entry.original_prompt,
        bracketed_target=entry.editing_prompt,
        instruction=entry.editing_instruction,
        blended_word=entry.blended_word,
        original=pictures[0],
        truth=pictures[1] if len(pictures) > 1 else None,
        runs=tuple(entry.mask),
    )
