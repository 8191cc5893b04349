"""Seeded manifests, pictures and runs, sound and damaged, through the command line: an exit code, one sentence, whole
files. A thousand of them, some in processes of their own, are `python -m benchmarks.fuzz`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.fuzz import ROOT, Outcome, Tally, Work, broken_promises, contents, fuzz
from sparsedit.records import append_record
from tests.pipelines import tiny_sdxl
from tests.sample_records import failed, record


def test_any_work_ends_in_whole_files_or_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_sdxl()
    monkeypatch.setattr("sparsedit.models.loading.load_pipeline", lambda *_, **__: pipe)
    tally = Tally(Counter(), [])
    fuzz(range(25), tmp_path, "tiny/tiny", tally)
    assert tally.broken == []
    assert {kind for kind, _, _ in tally.ended} == {"edit", "compare", "report"}
    assert {0, 2} <= tally.codes()  # sound work among them, and damaged


EDIT = Work("edit", "none", ("edit",))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder in which an edit has written all it should."""
    (tmp_path / "run").mkdir()
    append_record(tmp_path / "run" / "records.jsonl", record())
    (tmp_path / "run" / "report.html").write_text("<html></html>", encoding="utf-8")
    Image.new("RGB", (64, 64)).save(tmp_path / "run" / "sparse.png")
    return tmp_path


def test_a_whole_run_keeps_its_promises(run: Path) -> None:
    assert broken_promises(EDIT, Outcome(0, "", ""), run, {}) == []


@pytest.mark.parametrize(
    ("outcome", "broken"),
    [
        (Outcome(3, "", ""), "exit code 3"),
        (Outcome(-9, "", ""), "exit code -9"),
        (Outcome(0, "", "Traceback (most recent call last)"), "says 'Traceback'"),
        (Outcome(1, "", "this is a defect of sparsedit"), "says 'defect'"),
        (Outcome(0, "\x1b[31m", ""), r"says '\x1b'"),
        (Outcome(2, "", ""), "no sentence"),
        (Outcome(2, "", "error: no"), "files were written or changed"),
        (Outcome(1, "", ""), "records and exit code do not agree"),
    ],
)
def test_every_broken_promise_is_found(run: Path, outcome: Outcome, broken: str) -> None:
    assert broken in broken_promises(EDIT, outcome, run, {})


def test_half_a_file_is_found(run: Path) -> None:
    (run / "run" / ".0123456789abcdef.tmp").touch()
    (run / "run" / "report.html").write_text("<html>", encoding="utf-8")
    append_record(run / "run" / "records.jsonl", failed())
    (run / "input.png").touch()
    before = contents(run) | {run / "input.png": "another"}
    found = broken_promises(EDIT, Outcome(1, "", ""), run, before)
    assert found == ["what was read is changed", ".0123456789abcdef.tmp is left", "half a page"]
    (run / "run" / "sparse.png").write_bytes((run / "run" / "sparse.png").read_bytes()[:60])
    assert "sparse.png is no whole picture" in broken_promises(EDIT, Outcome(1, "", ""), run, before)
    (run / "run" / "report.html").unlink()
    assert "no report.html" in broken_promises(EDIT, Outcome(1, "", ""), run, before)


def test_the_thousand_works_that_were_run_kept_their_promises() -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text(encoding="utf-8"))
    assert document["works"] == sum(sum(codes.values()) for codes in document["exit_codes"].values()) >= 1000
    assert document["in_processes_of_their_own"] >= 50
    assert document["broken_promises"] == []
    assert {int(code) for codes in document["exit_codes"].values() for code in codes} <= {0, 1, 2, 3}
