"""Strict YAML: which scalars are numbers, what is refused, and that the place is always told."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import pytest

from sparsedit import documents
from sparsedit.documents import Document, read_document
from sparsedit.errors import InputError, ManifestError


def read(tmp_path: Path, text: str | bytes) -> Document:
    path = tmp_path / "d.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path, ManifestError)


def refusal(tmp_path: Path, text: str | bytes) -> str:
    """What the document is refused with, after the name of the file."""
    with pytest.raises((ManifestError, InputError)) as caught:
        read(tmp_path, text)
    name = str(tmp_path / "d.yaml")
    assert str(caught.value).startswith(name)
    return str(caught.value)[len(name) :].lstrip(":, ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("+7", 7),
        ("-0", 0),
        ("0", 0),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("off", "off"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("e3", "e3"),
        (".", "."),
        ("=", "="),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
    ],
)
def test_scalars(tmp_path: Path, text: str, value: object) -> None:
    found = read(tmp_path, f"key: {text}\n").value
    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


def test_every_value_has_its_line(tmp_path: Path) -> None:
    text = "a: 1\nb:\n  - c: |\n      long\n      text\n    d: [1,\n      2]\n"
    document = read(tmp_path, text)
    assert document.value == {"a": 1, "b": [{"c": "long\ntext\n", "d": [1, 2]}]}
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 0, "c"): 3,
        ("b", 0, "d"): 6,
        ("b", 0, "d", 0): 6,
        ("b", 0, "d", 1): 7,
    }
    assert document.place(("b", 0, "d", 1)) == "b[0].d[1] (line 7)"
    assert document.place(("b", 0, "missing")) == "b[0].missing (line 3)"
    assert document.place(("b", 0, "a key")) == "b[0]['a key'] (line 3)"
    assert document.place(()) == "the top level (line 1)"
    assert document.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("version: 1\nversion: 1", "version (line 2, column 1): the key is given twice, first in line 1"),
        (
            "cases:\n- id: a\n  id: b",
            "cases[0].id (line 3, column 3): the key is given twice, first in line 2",
        ),
        ("a: &x 1\nb: *x", "line 1, column 4: anchors (&name) are not read here"),
        ("a: *x", "line 1, column 4: aliases (*name) are not read here"),
        ("a: &x [*x]", "anchors (&name) are not read here"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "a (line 1, column 4): the tag tag:yaml.org,2002:python/object",
        ),
        ("a: !secret b", "the tag !secret is not read here"),
        ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary is not read here"),
        ("a: !!set {b}", "the tag tag:yaml.org,2002:set is not read here"),
        ("a: !!int ten", "a (line 1, column 4): 'ten' cannot be read as int"),
        ("a: !!bool maybe", "'maybe' cannot be read as bool"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("1: a", "the top level (line 1, column 1): a key must be text, not '1'; put it in quotes"),
        ("? [a, b]\n: c", "a key must be text, not sequence; put it in quotes"),
        ("a: [1", "line 1, column 6: expected ',' or ']'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a:\n\tb: c", "line 2, column 1: found character"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("a: " + "[" * 100 + "]" * 100, "nested more than 32 levels deep"),
        ("[" * 1_000_000, "nested more than 32 levels deep"),
        ("- " * 5_000 + "a", "nested more than 32 levels deep"),
        ("a: \x07", "character 3 is not allowed in YAML"),
        ("a: b\0", "character 4 is not allowed in YAML"),
        ("%YAML 3.0\n---\na: 1", "found incompatible YAML document"),
        ("a: @b", "line 1, column 4: found character '@' that cannot start any token"),
    ],
)
def test_yaml_that_is_not_plain(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in refusal(tmp_path, text)


def test_other_encodings(tmp_path: Path) -> None:
    assert "is not UTF-8 text (byte 3)" in refusal(tmp_path, b"a: \xff")
    assert "is not UTF-8 text (byte 0)" in refusal(tmp_path, "a: 1".encode("utf-16"))


def test_all_duplicate_keys_are_listed(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a: 1\na: 2\nb: {c: 1, c: 2}")
    assert message.splitlines()[0] == "has 2 errors:"
    assert "b.c (line 3, column 11): the key is given twice, first in line 3" in message


def test_a_merge_key_is_a_key_like_any_other(tmp_path: Path) -> None:
    assert read(tmp_path, "<<: {a: 1}\nb: 2").value == {"<<": {"a": 1}, "b": 2}


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 2_000_000)
    assert "is larger than 2 MB." in refusal(tmp_path, "#" * 2_000_001)
    assert "holds nothing but comments" in refusal(tmp_path, "#" * 2_000_000)


def test_a_missing_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, fault in (("none.yaml", "does not exist"), (".", "is a folder"), ("pipe.yaml", "is a pipe")):
        with pytest.raises(InputError, match=fault):
            read_document(tmp_path / name, ManifestError)


def test_half_a_surrogate_pair_is_no_text_and_a_whole_one_is(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text('prompt: "\\ud800"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"prompt \(line 1, column 9\).*\\ud800.*cannot be read as str"):
        read_document(path, InputError)
    path.write_text('{"prompt": "\\ud83c\\udfe0 בית"}', encoding="utf-8")
    assert read_document(path, InputError).value == {"prompt": "\N{HOUSE BUILDING} בית"}
