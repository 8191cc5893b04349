"""Manifests: the contract's example, every fault with its place in the file, paths, single cases."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsedit.errors import InputError, ManifestError, SparseditError
from sparsedit.manifest import Manifest, load_manifest, single_case
from sparsedit.settings import resolve

EXAMPLE = """\
version: 1
model: demo
defaults: {task: sdedit, steps: 20, strength: 0.7, guidance: 5.0, seed: 0}
cases:
  - id: meadow
    original: images/meadow.png          # relative to the manifest
    prompt: a meadow under snowy mountains
    variants:
      - {id: house, edited: images/house.png, prompt: a red house on a meadow}
      - {id: sunset, mask: images/sky.png, prompt: a meadow at sunset, task: inpaint}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder; reading a manifest opens no picture, so any bytes will do."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for name in ("meadow", "house", "sky"):
        (tmp_path / "set" / "images" / f"{name}.png").write_bytes(b"x")
    (tmp_path / "outside.png").write_bytes(b"x")
    return tmp_path / "set"


def read(folder: Path, text: str | bytes, **options: Any) -> Manifest:
    path = folder / "m.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_manifest(path, **options)


def refusal(folder: Path, text: str | bytes, **options: Any) -> str:
    """What the manifest is refused with, after the name of the file."""
    with pytest.raises(SparseditError) as caught:
        read(folder, text, **options)
    assert caught.value.exit_code == 2
    name = str(folder / "m.yaml")
    assert str(caught.value).startswith(name)
    return str(caught.value)[len(name) :].lstrip(":, ")


def edit(old: str, new: str) -> str:
    assert EXAMPLE.count(old) == 1
    return EXAMPLE.replace(old, new)


# What is read


def test_the_contracts_example(folder: Path) -> None:
    manifest = read(folder, EXAMPLE)
    assert (manifest.version, manifest.model) == (1, "demo")
    assert manifest.defaults == {"task": "sdedit", "steps": 20, "strength": 0.7, "guidance": 5.0, "seed": 0}
    assert manifest.sha256 == hashlib.sha256(EXAMPLE.encode()).hexdigest()
    [case] = manifest.cases
    house, sunset = case.variants
    assert (case.id, case.original) == ("meadow", folder / "images" / "meadow.png")
    assert case.prompt == "a meadow under snowy mountains"
    assert (house.id, house.edited, house.mask) == ("house", folder / "images" / "house.png", None)
    assert (house.prompt, house.settings, house.edit_type) == ("a red house on a meadow", {}, None)
    assert (sunset.edited, sunset.mask) == (None, folder / "images" / "sky.png")
    assert sunset.settings == {"task": "inpaint"}


def test_settings_of_defaults_case_and_variant_layer(folder: Path) -> None:
    text = edit("    original:", "    steps: 30\n    seed: 3\n    original:").replace(
        "{id: house,", "{id: house, steps: 4, edit_type: add object,"
    )
    manifest = read(folder, text)
    [case] = manifest.cases
    house, sunset = case.variants
    assert (case.settings, house.settings) == ({"steps": 30, "seed": 3}, {"steps": 4})
    assert house.edit_type == "add object"
    settings = resolve({"steps": 50, "guidance": 1.0}, manifest.defaults, case.settings, house.settings)
    assert (settings.steps, settings.seed, settings.guidance) == (4, 3, 5.0)
    assert resolve({}, manifest.defaults, case.settings, sunset.settings).steps == 30


def test_a_variant_without_a_prompt_has_its_cases(folder: Path) -> None:
    house = read(folder, edit(", prompt: a red house on a meadow", "")).cases[0].variants[0]
    assert house.prompt == "a meadow under snowy mountains"
    assert read(folder, edit("a red house on a meadow", "''")).cases[0].variants[0].prompt == ""


def test_null_means_not_said(folder: Path) -> None:
    house = read(folder, edit("{id: house,", "{id: house, mask: , steps: ~, task: null,")).cases[0].variants[0]
    assert (house.mask, house.settings) == (None, {})


def test_numbers_and_words_are_those_of_yaml_1_2(folder: Path) -> None:
    defaults = "{threshold: 1e-3, guidance: 5, strength: .5, negative_prompt: no, seed: 10, dense: false}"
    text = re.sub(r"defaults: .*", f"defaults: {defaults}", EXAMPLE)
    assert read(folder, text).defaults == {
        "threshold": 0.001,
        "guidance": 5.0,
        "strength": 0.5,
        "negative_prompt": "no",
        "seed": 10,
        "dense": False,
    }


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    assert read(folder, b"\xef\xbb\xbf" + EXAMPLE.encode()).model == "demo"


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
prompts = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20)
said = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.integers(1, 1000),
        "strength": st.floats(1e-6, 1),
        "negative_prompt": prompts,
        "dense": st.booleans(),
        "policy": st.sampled_from(["tight", "close", "wide", "published"]),
    },
)
variants = st.tuples(names, prompts, said).map(
    lambda parts: {"id": parts[0], "prompt": parts[1], "edited": "images/house.png", **parts[2]}
)
unique: dict[str, Any] = {"min_size": 1, "max_size": 3, "unique_by": lambda entry: entry["id"].casefold()}
cases = st.tuples(names, prompts, said, st.lists(variants, **unique)).map(
    lambda parts: {
        "id": parts[0],
        "prompt": parts[1],
        "original": "images/meadow.png",
        **parts[2],
        "variants": parts[3],
    }
)


@given(said, st.lists(cases, **unique))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_what_is_written_is_read(folder: Path, defaults: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    document = {"version": 1, "defaults": defaults, "cases": entries}
    manifest = read(folder, json.dumps(document, ensure_ascii=False))  # every JSON is a YAML 1.2
    assert manifest.defaults == defaults
    for case, entry in zip(manifest.cases, entries, strict=True):
        assert (case.id, case.prompt) == (entry["id"], entry["prompt"])
        for variant, wanted in zip(case.variants, entry["variants"], strict=True):
            assert (variant.id, variant.prompt) == (wanted["id"], wanted["prompt"])
            assert {"id", "prompt", "edited", *variant.settings} == set(wanted)
            assert dict(variant.settings).items() <= wanted.items()


# What is refused, and where


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        # keys
        (
            "prompt: a meadow at",
            "promt: a meadow at",
            "[0].variants[1].promt (line 10): unknown key; did you mean 'prompt'?",
        ),
        ("{id: house, ", "{", "[0].variants[0].id (line 9): is missing"),
        # ids
        ("id: meadow", "id: 7", "[0].id (line 5): must be text, not 7; put it in quotes"),
        ("id: meadow", "id: -o", "[0].id (line 5): must be letters, digits"),
        ("id: meadow", "id: ..", "not begin with '.' or '-', and have at most 100 characters, not '..'"),
        ("id: meadow", "id: a/b", "not 'a/b'"),
        ("id: meadow", 'id: "a\\n"', "not 'a\\n'"),
        ("id: meadow", 'id: ""', "not ''"),
        ("id: meadow", "id: " + "a" * 101, "at most 100 characters"),
        (
            "id: sunset",
            "id: house",
            "[0].variants[1].id (line 10): 'house' is taken by cases[0].variants[0].id (line 9)",
        ),
        ("id: sunset", "id: House", "[0].variants[1].id (line 10): 'House' is taken by"),
        # what to edit
        ("edited: images/house.png, ", "", "[0].variants[0] (line 9): needs 'edited', 'mask' or both"),
        (
            "mask: images/sky.png",
            "edited: images/sky.png",
            "[0].variants[1] (line 10): needs 'mask', because",
        ),
        # settings
        (
            "task: inpaint",
            "task: outpaint",
            "[1].task (line 10): must be 'sdedit', 'inpaint', 'prompt', 'control', 'rotate' or 'pan', not 'outpaint'",
        ),
        (
            "task: inpaint",
            "task: inpaint, steps: 2.5",
            "[1].steps (line 10): must be a whole number, not 2.5",
        ),
        (
            "task: inpaint",
            "task: inpaint, seed: 010",
            "[1].seed (line 10): must be a whole number, not '010'",
        ),
        ("task: inpaint", "task: inpaint, dense: no", "[1].dense (line 10): must be true or false, not 'no'"),
        ("task: inpaint", "task: inpaint, guidance: .nan", "must be a finite number, not nan"),
        ("steps: 20", "stepz: 20", "defaults.stepz (line 3): unknown key; did you mean 'steps'?"),
        ("steps: 20", "id: a", "defaults.id (line 3): unknown key"),
        # paths
        (
            "images/meadow.png",
            "images/none.png",
            "[0].original (line 6): 'images/none.png' does not exist (sought in /",
        ),
        ("images/house.png", "images", "[0].variants[0].edited (line 9): 'images' is a folder"),
        ("images/meadow.png", "../outside.png", "[0].original (line 6): '../outside.png' lies outside /"),
        ("images/meadow.png", "images/../../outside.png", "lies outside"),
        ("images/meadow.png", "/etc/passwd", "'/etc/passwd' lies outside"),
        ("images/meadow.png", '""', "[0].original (line 6): must be the path of a picture, not ''"),
        ("images/meadow.png", "[a.png]", "must be the path of a picture, not ['a.png']"),
        ("images/meadow.png", '"a\\0.png"', "cannot be followed"),
        ("images/meadow.png", "a" * 5000, "cannot be"),
        # the whole
        ("version: 1", "version: 2", "version (line 1): must be 1, the only version there is, not 2"),
        ("version: 1", "version: true", "version (line 1): must be a whole number, not true"),
        ("version: 1\n", "", "version (line 1): is missing"),
        ("model: demo", "model: [demo]", "model (line 2): must be text, not ['demo']"),
        ("model: demo", "modell: demo", "modell (line 2): unknown key; did you mean 'model'?"),
    ],
)
def test_a_fault_is_one_sentence_with_its_place(folder: Path, old: str, new: str, fault: str) -> None:
    message = refusal(folder, edit(old, new))
    assert fault in message
    assert "\n" not in message
    assert len(message) < 1000


def test_a_misspelt_key_that_is_required_is_two_faults(folder: Path) -> None:
    assert refusal(folder, edit("version: 1", "versoin: 1")).splitlines() == [
        "has 2 errors:",
        "  version (line 1): is missing",
        "  versoin (line 1): unknown key; did you mean 'version'?",
    ]


def test_an_edit_of_words_needs_words_and_only_it_makes_its_original(folder: Path) -> None:
    alone = "version: 1\ncases:\n  - {id: a, prompt: a house, variants: [{id: b, task: prompt, prompt: a tree}]}\n"
    (case,) = read(folder, alone).cases
    assert case.original is None
    assert "needs 'prompt'" in refusal(folder, alone.replace(", prompt: a tree", ""))
    assert "only task prompt makes one" in refusal(folder, alone.replace("task: prompt,", "task: sdedit,"))


def test_a_canvas_moves_by_two_numbers_or_an_angle(folder: Path) -> None:
    moves = "{id: house, task: pan, by: [64, -8]}"
    text = (
        "version: 1\ncases:\n  - id: a\n    original: images/meadow.png\n    variants:\n"
        f"      - {moves}\n      - {{id: turn, task: rotate, angle: 5}}\n"
    )
    pan, turn = read(folder, text).cases[0].variants
    assert (pan.by, pan.angle, turn.by, turn.angle) == ((64, -8), None, None, 5.0)
    assert "must have at least 2" in refusal(folder, text.replace("[64, -8]", "[64]"))


def test_the_inherited_task_counts(folder: Path) -> None:
    assert "[0].variants[0] (line 9): needs 'mask'" in refusal(folder, edit("task: sdedit", "task: inpaint"))
    of_case = edit("    original:", "    task: inpaint\n    original:")
    assert "[0].variants[0] (line 10): needs 'mask'" in refusal(folder, of_case)
    own = of_case.replace("{id: house,", "{id: house, task: sdedit,")
    assert read(folder, own).cases[0].settings == {"task": "inpaint"}


def test_all_faults_are_listed_at_once(folder: Path) -> None:
    text = EXAMPLE.replace("version: 1", "version: 3").replace("steps: 20", "steps: many")
    text = text.replace("images/meadow.png", "none.png").replace("{id: house,", "{id: house, promt: x,")
    lines = refusal(folder, text).splitlines()
    assert lines[0] == "has 4 errors:"
    assert [line.split(" (")[0].strip() for line in lines[1:]] == [
        "version",
        "defaults.steps",
        "cases[0].original",
        "cases[0].variants[0].promt",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("version: 1\ncases: []", "cases (line 2): must have at least 1, has 0"),
        ("version: 1\ncases:", "cases (line 2): must be a list, not null"),
        ("version: 1\ncases: {a: 1}", "cases (line 2): must be a list, not {'a': 1}"),
        ("version: 1\ncases: [1]", "cases[0] (line 2): must be a mapping of keys to values, not 1"),
        ("version: 1", "cases (line 1): is missing"),
        ("- version: 1", "the top level (line 1): must be a mapping of keys to values"),
        ("text", "the top level (line 1): must be a mapping of keys to values, not 'text'"),
        ("", "is empty."),
        ("# nothing\n", "holds nothing but comments."),
    ],
)
def test_another_shape(folder: Path, text: str, fault: str) -> None:
    assert fault in refusal(folder, text)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_any_text_ends_in_a_sentence(folder: Path, text: str) -> None:
    with pytest.raises(SparseditError):
        read(folder, text.encode("utf-8", "surrogatepass"))


@given(st.integers(0, len(EXAMPLE) - 1), st.sampled_from(list("{}[]:,-#&*!|>'\"%@` \n\t?x0~")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_one_wrong_character_ends_in_a_manifest_or_a_sentence(folder: Path, at: int, character: str) -> None:
    with contextlib.suppress(ManifestError):
        assert read(folder, EXAMPLE[:at] + character + EXAMPLE[at + 1 :]).cases


# Where pictures are


def test_a_link_that_leads_outside(folder: Path) -> None:
    (folder / "images" / "link.png").symlink_to(folder.parent / "outside.png")
    text = edit("images/meadow.png", "images/link.png")
    assert "'images/link.png' lies outside" in refusal(folder, text)
    assert read(folder, text, allow_outside=True).cases[0].original == folder.parent / "outside.png"


def test_a_folder_whose_name_only_begins_alike_is_outside(folder: Path) -> None:
    sibling = folder.with_name(f"{folder.name}-private")
    sibling.mkdir()
    (sibling / "a.png").write_bytes(b"a picture")
    fault = refusal(folder, edit("images/meadow.png", f"../{sibling.name}/a.png"))
    assert "lies outside" in fault


def test_a_link_inside_is_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to("images/meadow.png")
    original = read(folder, edit("images/meadow.png", "link.png")).cases[0].original
    assert original == folder / "images" / "meadow.png"


def test_links_in_a_circle(folder: Path) -> None:
    (folder / "a.png").symlink_to("b.png")
    (folder / "b.png").symlink_to("a.png")
    assert "[0].original (line 6): 'a.png' cannot be" in refusal(folder, edit("images/meadow.png", "a.png"))


def test_a_pipe_in_place_of_a_picture(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    assert "'pipe.png' is a pipe" in refusal(folder, edit("images/meadow.png", "pipe.png"))


def test_outside_by_permission(folder: Path) -> None:
    for place in ("../outside.png", str(folder.parent / "outside.png")):
        text = edit("images/meadow.png", place)
        assert read(folder, text, allow_outside=True).cases[0].original == folder.parent / "outside.png"


def test_an_absolute_path_inside(folder: Path) -> None:
    path = folder / "images" / "meadow.png"
    assert read(folder, edit("images/meadow.png", str(path))).cases[0].original == path


def test_a_manifest_named_relative_to_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(folder, EXAMPLE)
    monkeypatch.chdir(folder)
    assert load_manifest(Path("m.yaml")).cases[0].original == folder / "images" / "meadow.png"


def with_data(text: str = EXAMPLE) -> str:
    return "data: {sige: Get them from example.org/sige.}\n" + text.replace("images/", "")


def test_pictures_that_live_elsewhere(folder: Path, tmp_path: Path) -> None:
    assert refusal(folder, with_data()) == (
        "data (line 1): the pictures are in sige, whose folder --data DIR must name. Get them from example.org/sige."
    )
    manifest = read(folder, with_data(), data=folder / "images")
    assert manifest.cases[0].original == folder / "images" / "meadow.png"
    text = with_data(edit("images/meadow.png", "../m.yaml"))
    assert f"lies outside {folder / 'images'}" in refusal(folder, text, data=folder / "images")


def test_faults_are_listed_also_while_the_data_is_missing(folder: Path) -> None:
    message = refusal(folder, with_data(edit("id: meadow", "id: 3")))
    assert "whose folder --data DIR must name" in message
    assert "cases[0].id (line 6): must be text" in message


def test_the_folder_named_holds_the_pictures_of_any_manifest(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(EXAMPLE)
    assert load_manifest(tmp_path / "m.yaml", data=folder).cases[0].original.parent == folder / "images"


def test_data_that_is_no_folder(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none is not a folder"):
        read(folder, with_data(), data=folder / "none")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("here", "data (line 1): must be a mapping of keys to values, not 'here'"),
        ("{}", "data (line 1): must have at least 1, has 0"),
        ("{a: b, c: d}", "data (line 1): must have at most 1, has 2"),
        ("{a: 1}", "data.a (line 1): must be text, not 1"),
    ],
)
def test_data_must_be_one_name_with_its_source(folder: Path, data: str, fault: str) -> None:
    assert refusal(folder, f"data: {data}\n{EXAMPLE}").startswith(fault)


# The command line's single case


def touched(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [folder / name for name in names]


def test_single_case(tmp_path: Path) -> None:
    original, a, b, mask = touched(tmp_path, "photo.jpg", "a.png", "b.png", "m.png")
    manifest = single_case(original, [a, b], mask, prompt="before", edit_prompt="after")
    [case] = manifest.cases
    assert (case.id, case.original, case.prompt) == ("photo", original, "before")
    assert [(v.id, v.edited, v.mask, v.prompt) for v in case.variants] == [
        ("a", a, mask, "after"),
        ("b", b, mask, "after"),
    ]
    assert (manifest.version, manifest.model, manifest.defaults, manifest.sha256) == (1, None, {}, None)


def test_single_case_with_a_mask_alone(tmp_path: Path) -> None:
    original, mask = touched(tmp_path, "photo.jpg", "m.png")
    [variant] = single_case(original, mask=mask, prompt="same").cases[0].variants
    assert (variant.id, variant.edited, variant.mask, variant.prompt) == ("m", None, mask, "same")


def test_single_case_with_an_empty_edit_prompt(tmp_path: Path) -> None:
    original, a = touched(tmp_path, "photo.jpg", "a.png")
    assert single_case(original, [a], prompt="x", edit_prompt="").cases[0].variants[0].prompt == ""


def test_ids_made_of_file_names_are_safe_and_different(tmp_path: Path) -> None:
    names = ["x/a.png", "y/a.png", "A.png", "a-2.png", "my photo (1).png", "-rf.png", "日本.png", "é.png"]
    original, *edited = touched(tmp_path, "..photo..jpg", *names, "a" * 200 + ".png")
    case = single_case(original, edited).cases[0]
    ids = [variant.id for variant in case.variants]
    assert ids[:6] == ["a", "a-2", "A-3", "a-2-2", "my-photo-1-", "rf"]
    assert case.id == "photo."
    assert len({name.casefold() for name in ids}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) for name in ids)


def test_single_case_without_anything_to_change(tmp_path: Path) -> None:
    [original] = touched(tmp_path, "photo.jpg")
    with pytest.raises(InputError, match=r"Nothing says what to change in .*: give --edited IMG, --mask IMG"):
        single_case(original)


def test_single_case_with_a_missing_file(tmp_path: Path) -> None:
    original, a = touched(tmp_path, "photo.jpg", "a.png")
    none = tmp_path / "none.png"
    for arguments in ((none, [a], None), (original, [none], None), (original, [a], none)):
        with pytest.raises(InputError, match=r"none\.png does not exist"):
            single_case(*arguments)


def test_importing_manifests_imports_no_numerics() -> None:
    script = "import sys, sparsedit.manifest; print(*({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
