"""Strict YAML documents whose faults can be pointed at.

PyYAML alone reads `1e-3` as text, `no` as false and `010` as eight, keeps the last of two equal keys and
forgets where a value stood. Here scalars are YAML 1.2's, a key given twice is an error, and every value keeps
its line. Anchors, aliases and tags are refused: a hand-written manifest needs none, and they let a small file
grow without bound. What the keys mean is for the model that validates the document.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sparsedit.errors import Location, SparseditError, dotted, sentences, shown
from sparsedit.files import check_file

MAX_BYTES = 10_000_000
MAX_DEPTH = 32

Model = TypeVar("Model", bound=BaseModel)


@dataclasses.dataclass(frozen=True)
class Document:
    """A document that was read: its plain `value`, and the line (from 1) of every location in it."""

    path: Path
    value: object
    lines: Mapping[Location, int]
    sha256: str
    error: type[SparseditError]

    def place(self, location: Location) -> str:
        """The location in words: `cases[0].promt (line 7)`; what is missing has the line of its parent."""
        present = next(location[:end] for end in range(len(location), -1, -1) if location[:end] in self.lines)
        return f"{dotted(location)} (line {self.lines[present]})"

    def validate(self, model: type[Model], context: object = None) -> Model:
        """The document as a `model`; raises the document's error with one sentence per fault."""
        try:
            return model.model_validate(self.value, context=context)
        except ValidationError as error:
            raise self.refusal(sentences(error, model, self.place)) from None

    def refusal(self, faults: list[str]) -> SparseditError:
        """The error to raise for these faults, each of which begins with its place."""
        if len(faults) == 1:
            return self.error(f"{self.path}: {faults[0]}")
        return self.error("\n  ".join([f"{self.path} has {len(faults)} errors:", *faults]))


def read_document(path: Path, error: type[SparseditError]) -> Document:
    """Read a YAML 1.2 file of plain values; raises `error` (InputError when there is no such file)."""
    check_file(path)
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise error(f"{path} is larger than {MAX_BYTES // 1_000_000} MB.")
    try:
        node = _Loader(data.decode("utf-8-sig")).get_single_node()
    except UnicodeDecodeError as fault:
        raise error(f"{path} is not UTF-8 text (byte {fault.start}).") from None
    except yaml.MarkedYAMLError as fault:
        raise error(f"{path}, {_where(fault.problem_mark)}: {fault.problem}.") from None
    except yaml.reader.ReaderError as fault:
        raise error(f"{path}: character {fault.position} is not allowed in YAML ({fault.reason}).") from None
    if node is None:
        raise error(f"{path} holds nothing but comments.")
    reading = _Reading()
    value = reading.value(node, ())
    document = Document(path, value, reading.lines, hashlib.sha256(data).hexdigest(), error)
    if reading.faults:
        raise document.refusal(reading.faults)
    return document


def _where(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "at its end"


class _Loader(yaml.SafeLoader):
    """Composes nodes; the constructors of the base class are never used."""

    # A scalar that matches none is text. Decimal numbers only: an 010 or a 0x1F in a manifest is a mistake.
    yaml_implicit_resolvers = {}  # noqa: RUF012  (the base class declares it so)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            kind = "aliases (*name)" if isinstance(event, yaml.AliasEvent) else "anchors (&name)"
            raise yaml.MarkedYAMLError(problem=f"{kind} are not read here", problem_mark=event.start_mark)
        if self.depth == MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TAG = "tag:yaml.org,2002:"
for _kind, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)$", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), _first)


def _text(text: str) -> str:
    """Text with both halves of surrogate pairs, as JSON escapes them, put together; ValueError for one half alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


_SCALARS: dict[str, Callable[[str], object]] = {
    "str": _text,
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


class _Reading:
    """Turns nodes into plain values, remembering lines and collecting what is wrong."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.faults: list[str] = []

    def value(self, node: yaml.Node, location: Location) -> object:
        self.lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*location, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location)
        self._fault(node, location, f"the tag {node.tag} is not read here")
        return None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, location) if isinstance(key_node, yaml.ScalarNode) else None
            here = (*location, key) if isinstance(key, str) else location
            if not isinstance(key, str):
                given = shown(key_node.value) if isinstance(key_node, yaml.ScalarNode) else key_node.id
                self._fault(key_node, here, f"a key must be text, not {given}; put it in quotes")
            elif key in found:
                self._fault(key_node, here, f"the key is given twice, first in line {self.lines[here]}")
            else:
                self.lines[here] = key_node.start_mark.line + 1
                found[key] = self.value(value_node, here)
        return found

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> object:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind not in _SCALARS:
            self._fault(node, location, f"the tag {node.tag} is not read here")
            return None
        try:
            return _SCALARS[kind](text)
        except (KeyError, ValueError):
            self._fault(node, location, f"{shown(text)} cannot be read as {kind}")
            return None

    def _fault(self, node: yaml.Node, location: Location, problem: str) -> None:
        self.faults.append(f"{dotted(location)} ({_where(node.start_mark)}): {problem}")
