"""Manifests: which pictures are edited, how, and with which settings.

A manifest is a strict YAML file. Reading one checks everything that can be known without a model: names,
types, ranges, that every picture is there and lies in the manifest's folder. All faults are reported at once,
each with its path and line in the file. Pictures are not opened here.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
)

from sparsedit.documents import Document, read_document
from sparsedit.errors import InputError, Location, ManifestError, shown
from sparsedit.files import check_file, file_fault
from sparsedit.settings import Settings


@dataclasses.dataclass(frozen=True)
class Variant:
    """One edit of a case: an edited picture, a mask, or both; other words alone (task prompt); or a canvas that moves
    `by` pixels (right, down) or turns by an `angle`. `settings` are those said for it alone."""

    id: str
    edited: Path | None
    mask: Path | None
    prompt: str
    edit_type: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    by: tuple[int, int] | None = None
    angle: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """An original picture with its prompt, and the edits made to it. Without a picture one is made of the prompt.

    The edits of a `series` are made one upon the other, in their order.
    """

    id: str
    original: Path | None
    prompt: str
    variants: tuple[Variant, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    series: bool = False


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is to be run. `sha256` is that of the file's bytes, None when there was no file."""

    version: int
    model: str | None
    defaults: Mapping[str, Any]
    cases: tuple[Case, ...]
    sha256: str | None = None


def load_manifest(path: Path, *, data: Path | None = None, allow_outside: bool = False) -> Manifest:
    """Read and check a manifest.

    Pictures are sought in the manifest's folder, or in `data` when given; they must lie inside it, links
    followed, unless `allow_outside`. Raises ManifestError with every fault found, InputError when the file or
    the folder `data` does not exist.
    """
    document = read_document(path, ManifestError)
    if data is not None and not data.is_dir():
        raise InputError(f"{data} is not a folder; the pictures of {path} are sought in it.")
    elsewhere = isinstance(document.value, dict) and document.value.get("data") is not None
    root = data or (None if elsewhere else path.parent)
    entry = document.validate(_ManifestEntry, context=_Folder(root and root.resolve(), allow_outside))
    if faults := list(_conflicts(entry, document)):
        raise document.refusal(faults)
    cases = tuple(_case(case) for case in entry.cases)
    return Manifest(entry.version, entry.model, entry.defaults.said(), cases, document.sha256)


def single_case(
    original: Path | None,
    edited: Sequence[Path] = (),
    mask: Path | None = None,
    *,
    prompt: str = "",
    edit_prompt: str | None = None,
    by: tuple[int, int] | None = None,
    angle: float | None = None,
    series: bool = False,
) -> Manifest:
    """The manifest of one original and its edits, as named on the command line.

    Ids are the file names made safe, the mask applies to every edit, and without `edit_prompt` the edits have
    the original's prompt; no original means one that is made. Raises InputError when a file is missing or nothing says
    what to edit.
    """
    if not edited and mask is None and by is None and angle is None and edit_prompt is None:
        raise InputError(
            f"Nothing says what to change in {original or 'the picture'}: give --edited IMG, --mask IMG or both, or "
            "--edit-prompt T, --by DX,DY or --angle A with their tasks."
        )
    for path in filter(None, (original, *edited, mask)):
        check_file(path)
    edit_prompt = prompt if edit_prompt is None else edit_prompt
    pictures: Sequence[Path | None] = edited or [None]
    kind = "pan" if by is not None else "rotate" if angle is not None else "words"
    variants: list[Variant] = []
    for picture in pictures:
        name = _free_id(picture or mask or Path(kind), [variant.id for variant in variants])
        variants.append(Variant(name, picture, mask, edit_prompt, by=by, angle=angle))
    case = Case(_free_id(original or Path("noise"), []), original, prompt, tuple(variants), series=series)
    return Manifest(version=1, model=None, defaults={}, cases=(case,))


def _free_id(path: Path, taken: Sequence[str]) -> str:
    """An id made of the file's name, different from those taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("-.") or "image"
    candidates = (f"{stem[: _ID_LENGTH - 10]}{suffix}" for suffix in _suffixes())
    used = {name.casefold() for name in taken}
    return next(name for name in candidates if name.casefold() not in used)


def _suffixes() -> Iterator[str]:
    yield ""
    yield from (f"-{number}" for number in itertools.count(2))


# Ids name folders: short, plain, unlike an option, and different in more than case, which some disks ignore.
_ID_LENGTH = 100


def check_id(text: str) -> str:
    """The text, if it can name a case or a variant; raises ValueError that says what would."""
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{_ID_LENGTH - 1}}}", text):
        raise ValueError(
            "must be letters, digits, '.', '_' and '-', not begin with '.' or '-', and have at most "
            f"{_ID_LENGTH} characters, not {shown(text)}"
        )
    return text


def _checked_version(number: int) -> int:
    if number != 1:
        raise ValueError(f"must be 1, the only version there is, not {number}")
    return number


@dataclasses.dataclass(frozen=True)
class _Folder:
    """Where pictures are sought; no root when that is not known, and pictures cannot be checked."""

    root: Path | None
    allow_outside: bool


def _checked_picture(text: object, info: ValidationInfo) -> Path:
    """The real path of a picture that exists in the folder of the validation's context."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"must be the path of a picture, not {shown(text)}")
    folder = info.context
    assert isinstance(folder, _Folder)
    if folder.root is None:
        return Path(text)
    try:
        path = (folder.root / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{shown(text)} cannot be followed ({error})") from None
    if not folder.allow_outside and not path.is_relative_to(folder.root):
        raise ValueError(f"{shown(text)} lies outside {folder.root}; move it there, or allow it with --allow-outside")
    if fault := file_fault(path):
        raise ValueError(f"{shown(text)} {fault} (sought in {folder.root})")
    return path


Id = Annotated[str, AfterValidator(check_id)]
_Picture = Annotated[Path, PlainValidator(_checked_picture)]


class _VariantEntry(Settings):
    id: Id
    edited: _Picture | None = None
    mask: _Picture | None = None
    prompt: str | None = None
    edit_type: str | None = None
    by: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    angle: float | None = None


class _CaseEntry(Settings):
    id: Id
    original: _Picture | None = None
    prompt: str = ""
    series: bool = False
    variants: Annotated[list[_VariantEntry], Field(min_length=1)]


class _ManifestEntry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: Annotated[int, AfterValidator(_checked_version)]
    model: str | None = None
    data: Annotated[dict[str, str], Field(min_length=1, max_length=1)] | None = None
    defaults: Settings = Settings()
    cases: Annotated[list[_CaseEntry], Field(min_length=1)]

    @field_validator("data")
    @classmethod
    def _is_at_hand(cls, data: dict[str, str] | None, info: ValidationInfo) -> dict[str, str] | None:
        assert isinstance(info.context, _Folder)
        if data and info.context.root is None:
            [(name, source)] = data.items()
            raise ValueError(f"the pictures are in {name}, whose folder --data DIR must name. {source}")
        return data


def _conflicts(entry: _ManifestEntry, document: Document) -> Iterator[str]:
    """What is wrong between entries that are right by themselves, each fault with its place."""
    yield from _equal_ids([case.id for case in entry.cases], ("cases",), document)
    for i, case in enumerate(entry.cases):
        yield from _equal_ids([variant.id for variant in case.variants], ("cases", i, "variants"), document)
        for j, variant in enumerate(case.variants):
            task = (entry.defaults.said() | case.said() | variant.said()).get("task")
            place = document.place(("cases", i, "variants", j))
            if task == "inpaint" and variant.mask is None:
                yield f"{place}: needs 'mask', because its task is inpaint"
            said = (variant.edited, variant.mask, variant.by, variant.angle, variant.prompt)
            if all(each is None for each in said[: 5 if task == "prompt" else 4]):
                needed = (
                    "'prompt'" if task == "prompt" else "'edited', 'mask' or both ('by' or 'angle' to move the canvas)"
                )
                yield f"{place}: needs {needed}, to say what changes"
            if case.original is None and task != "prompt":
                yield f"{document.place(('cases', i))}: needs 'original'; only task prompt makes one"


def _equal_ids(ids: list[str], location: Location, document: Document) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, name in enumerate(ids):
        earlier = first.setdefault(name.casefold(), index)
        if earlier != index:
            other = document.place((*location, earlier, "id"))
            yield f"{document.place((*location, index, 'id'))}: {name!r} is taken by {other}"


def _case(entry: _CaseEntry) -> Case:
    variants = tuple(
        Variant(
            id=variant.id,
            edited=variant.edited,
            mask=variant.mask,
            prompt=prompt,
            edit_type=variant.edit_type,
            settings=variant.said(),
            by=None if variant.by is None else (variant.by[0], variant.by[1]),
            angle=variant.angle,
        )
        for variant, prompt in zip(entry.variants, _prompts(entry), strict=True)
    )
    return Case(entry.id, entry.original, entry.prompt, variants, entry.said(), entry.series)


def _prompts(entry: _CaseEntry) -> Iterator[str]:
    """Every variant's prompt: its own, else the case's, or in a series that of the variant before."""
    before = entry.prompt
    for variant in entry.variants:
        prompt = before if variant.prompt is None else variant.prompt
        before = prompt if entry.series else before
        yield prompt
