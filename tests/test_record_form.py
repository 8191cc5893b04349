"""A folder that a stranger wrote, or a disk damaged: what is of another form is named, and is no defect of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsedit import cli
from sparsedit.errors import InputError
from sparsedit.record_form import read_environment, read_run
from sparsedit.records import append_record
from tests.sample_records import ENVIRONMENT, benched, failed, record

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "seconds that are text": ({"total": {"dense_s": "1", "record_s": None, "sparse_s": 1.0}}, r"total\.dense_s"),
    "seconds that are infinite": ({"total": {"dense_s": 1e999, "record_s": None, "sparse_s": 1.0}}, "cannot|no number"),
    "a total that is none": ({"total": 3}, "total"),
    "stages that are a list": ({"stages": []}, "stages"),
    "samples that are a number": ({"stages": {"unet": {"dense": {"seconds": 3}}}}, r"stages\.unet\.dense\.seconds"),
    "multiply-adds that are text": ({"stages": {"unet": {"dense": {"macs": "3"}}}}, r"unet\.dense\.macs"),
    "scores that are text": ({"fidelity": {"inside": {"psnr": "high"}}}, r"fidelity\.inside\.psnr"),
    "a reason that is a list": ({"reason": []}, "reason"),
    "missing values without a reason": ({"missing": {"lpips": {}}}, r"missing\.lpips"),
    "a size of one side": ({"size": [3]}, "size"),
    "another status": ({"status": "fine"}, "status"),
    "a case that climbs out": ({"case": "../.."}, "inside the run's folder"),
    "a variant with a slash": ({"variant": "a/b"}, "one name"),
    "pictures elsewhere": ({"images": "/etc"}, "inside the run's folder"),
}


def write(path: Path, line: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "records.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("change", "named"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_record_is_refused_with_its_place(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    run = write(tmp_path / "run", record(**change))
    with pytest.raises(InputError, match=named):
        read_run(run / "records.jsonl")


@pytest.mark.parametrize("key", ["id", "case", "variant", "status", "model", "way", "total", "stages"])
def test_what_a_table_needs_must_be_there(tmp_path: Path, key: str) -> None:
    line = record()
    del line[key]
    with pytest.raises(InputError, match=rf"line 1: {key}: is missing"):
        read_run(write(tmp_path / "run", line) / "records.jsonl")


def test_what_this_program_writes_and_later_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [record(), failed(), benched("meadow"), record(later={"key": 1})]
    assert [append_record(path, line) for line in lines] == read_run(path)


def test_few_of_many_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for _ in range(30):
        append_record(path, record(size="large"))
    with pytest.raises(InputError) as caught:
        read_run(path)
    assert len(str(caught.value).splitlines()) == 6


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"processor": "fast"}', '{"gpus": [1]}', "\0"])
def test_a_machine_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "environment.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"environment\.json (cannot be read|does not describe a machine)"):
        read_environment(tmp_path)


def test_a_report_of_a_damaged_run_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", record(total=3))
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT), encoding="utf-8")
    for command in (("report", str(run)), ("compare", str(run), str(run))):
        assert cli.run(command) == 2
        said = capsys.readouterr().err
        assert "line 1: total: must be a mapping" in said
        assert "defect" not in said
    assert sorted(path.name for path in run.iterdir()) == ["environment.json", "records.jsonl"]
