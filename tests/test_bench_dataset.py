"""A run as a data set: what `datasets` loads is what the records say."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from sparsedit import cli
from sparsedit.errors import InputError
from sparsedit.records import Record, append_record
from sparsedit.report.bench import values
from sparsedit.report.dataset import row, write_dataset
from sparsedit.report.pictures import NAMES
from sparsedit.report.text import markdown_text
from sparsedit.runs import RunFolder
from tests.sample_records import benched, failed, fidelity, record


@pytest.fixture
def records() -> list[Record]:
    return [
        benched("a", fidelity=fidelity(40.0, 50.0), size=[96, 64]),
        benched("b", made=failed, reason='it did not\n"fit" | : é'),
        benched("a", "dense", fidelity=fidelity(None, None)),
    ]


def loaded(folder: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split="test", cache_dir=str(cache))


def test_every_record_is_a_row(records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write_dataset(tmp_path / "set", records, [tmp_path], pictures=False)
    rows = loaded(tmp_path / "set", tmp_path / "cache")
    assert list(rows) == [row(record) for record in records]
    first, second, third = rows
    assert (first["case"], first["way"], first["width"], first["height"]) == ("a", "warm", 96, 64)
    assert {name: first[name] for name in values(records[0])} == values(records[0])
    assert (second["status"], second["reason"], second["inside_psnr"]) == ("failed", records[1]["reason"], None)
    assert third["first_speedup"] is None
    card = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {markdown_text(name)} " in card for name in rows.column_names)


def test_a_run_that_is_no_bench_has_rows_too(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", [record()], [], pictures=False)
    [only] = loaded(tmp_path / "set", tmp_path / "cache")
    assert (only["way"], only["cell"]) == (record()["way"], None)


def test_the_command_takes_pictures_along_and_every_record_of_shards_once(
    records: list[Record], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = [RunFolder.create(tmp_path / name, overwrite=False) for name in ("one", "two")]
    for folder, own in zip(shards, (records, records[:1]), strict=True):
        for each in own:
            append_record(folder.records, each | {"images": f"{each['case']}/edit/00000000/{each['way']}"})
    picture = Image.new("RGB", (96, 64), "red")
    picture.save(shards[1].images("a", "edit/00000000") / "original.png")
    picture.save(shards[1].images("a", "edit/00000000/warm") / "sparse.png")
    command = ["report", *(str(folder.path) for folder in shards), "--output-format", "datasets"]
    assert cli.run([*command, "--embed", "-o", str(tmp_path / "set")]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'set'}\n"
    rows = loaded(tmp_path / "set", tmp_path / "cache")
    assert rows.column_names[-len(NAMES) :] == list(NAMES)
    first, second, _ = rows
    assert first["sparse"].getpixel((0, 0)) == (255, 0, 0)
    assert (first["original"].size, first["dense"], second["original"]) == ((96, 64), None, None)
    assert cli.run(command) == 2
    assert "name it with --output" in capfd.readouterr().err
    assert cli.run([*command[:-1], "json", "-o", str(tmp_path / "other")]) == 2
    assert "other formats go to stdout" in capfd.readouterr().err


def test_a_folder_that_holds_something_is_left_alone(records: list[Record], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="is not empty"):
        write_dataset(tmp_path, records, [], pictures=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]
