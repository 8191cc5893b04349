"""Files with names that options, shells, terminals and disks stumble over are edited like any other."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from sparsedit.commands.work import plan_work
from sparsedit.engines.local import check_inputs
from sparsedit.manifest import check_id, single_case
from sparsedit.report.text import printable
from sparsedit.runs import RunFolder
from sparsedit.settings import Settings

NAMES = {
    "spaces": "my holiday photo .png",
    "a line break": "two\nlines.png",
    "a leading dash": "-o.png",
    "markup": "[bold]<b>$(id)`id`.png",
    "escapes": "\x1b[31mred.png",
    "right to left": "\u202egnp.exe.png",
    "another script": "屋根.png",
    "255 bytes": "a" * 251 + ".png",
    "no ending": "photo",
    "a dot": ".png",
}
OPTIONS = dict.fromkeys((*Settings.model_fields, "config", "model", "data", "allow_outside", "prompt", "edit_prompt"))


def draw(path: Path, colour: str = "red") -> Path:
    picture = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
    ImageDraw.Draw(picture).rectangle((4, 4, 8, 8), fill=colour)
    picture.save(path, format="PNG")
    return path


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_file_of_any_name_becomes_a_case_with_a_plain_id(name: str, tmp_path: Path) -> None:
    original = draw(tmp_path / name)
    edited = draw(tmp_path / "edited.png", "blue")
    work = plan_work(original, OPTIONS | {"edited": [edited], "mask": None, "by": None, "angle": None})
    check_inputs(work.jobs)
    [job] = work.jobs
    assert check_id(job.case.id)
    assert RunFolder(tmp_path / "run").images(job.case.id, job.variants[0].id).is_dir()
    assert printable(str(work.source)).isprintable()


def test_names_that_differ_in_their_composition_alone_are_two_cases(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    edited = [draw(tmp_path / name, colour) for name, colour in zip(names, ("blue", "green"), strict=True)]
    manifest = single_case(draw(tmp_path / "original.png"), edited)
    [case] = manifest.cases
    assert len({variant.id for variant in case.variants}) == 2
    assert [variant.edited for variant in case.variants] == edited
