"""A bench's tables: groups, ways, means, what is left out, differences, and every format."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from sparsedit.bench.limits import check_limits, load_limits
from sparsedit.bench.progress import Progress
from sparsedit.errors import InputError, SettingsError, ThresholdError
from sparsedit.report.bench import Line, Tables, merged, tables
from sparsedit.report.bench_page import bench_page
from sparsedit.report.bench_text import bench_csv, bench_latex, bench_markdown, bench_view
from sparsedit.report.thumbnails import OF_A_TYPE
from tests.sample_records import benched, failed, fidelity, record


def line(shown: Tables, way: str, group: str = "all") -> Line:
    [found] = [line for line in shown.lines if (line.way, line.group) == (way, group)]
    return found


RECORDS = [
    benched("a", fidelity=fidelity(40.0, 50.0)),
    benched("b", fidelity=fidelity(30.0, 50.0), edit_type="change style"),
    benched("c", made=failed, edit_type="change style", reason="it did not <fit>"),
    benched("d", fidelity=fidelity(None, None)) | {"way": "dense", "stages": {}, "reason": "too large"},
    benched("a", "dense", fidelity=fidelity(None, None)),
]


def test_means_are_of_what_was_done() -> None:
    shown = tables(RECORDS)
    assert shown.groups == ("all", "add object", "change style")
    warm = line(shown, "warm")
    assert (warm.count, warm.failed, warm.dense) == (3, 1, 1)
    psnr = warm.means["inside_psnr"]
    assert psnr is not None
    assert (psnr.mean, psnr.count) == (35.0, 2)
    # An edit that ran densely is as dear as dense; it is the dense one, so its PSNR is missing with a reason.
    ratio = warm.means["macs_ratio"]
    assert ratio is not None
    assert ratio.mean == pytest.approx((10 + 10 + 1) / 3)
    assert warm.left_out["inside_psnr"] == 0
    style = line(shown, "warm", "change style")
    assert (style.count, style.failed) == (1, 1)
    assert line(shown, "dense").dense == 0


def test_what_ran_densely_counts_in_no_fidelity_even_where_a_rounding_tells_it_from_the_dense_edit() -> None:
    rounded = benched("e", fidelity=fidelity(101.0, 104.0)) | {"way": "dense", "stages": {}, "reason": "too large"}
    shown, without = (line(tables(records), "warm") for records in ([*RECORDS, rounded], RECORDS))
    assert (shown.dense, without.dense) == (2, 1)
    for column in ("inside_psnr", "whole_psnr"):
        assert shown.means[column] == without.means[column]
        assert shown.left_out[column] == 0


def test_a_record_of_no_bench_is_refused() -> None:
    with pytest.raises(InputError, match="of no bench"):
        tables([record()])


def test_published_rows_stand_beside_what_they_compare() -> None:
    assert {row.system for row in tables(RECORDS).published} == {"RegionE", "SpotEdit", "FISEdit"}
    on_pie = tables([each | {"suite": "pie"} for each in RECORDS]).published
    assert "PnPInversion" in {row.system for row in on_pie}
    assert {row.protocol for row in on_pie} >= {"pnp-v1", None}
    on_sige = tables([benched("sdedit0", suite="sige")]).published
    assert any(row.gmacs and row.case == "sdedit0" for row in on_sige)


def test_differences_are_paired() -> None:
    before = [
        benched("a", fidelity=fidelity(38.0, 50.0)),
        benched("b", fidelity=fidelity(29.0, 50.0)),
        benched("z", fidelity=fidelity(99.0, 99.0)),
    ]
    comparison = tables(RECORDS[:2], before).differences["warm"]
    mean = comparison.groups()[0].means["inside_psnr"]
    assert mean is not None
    assert (mean.mean, mean.count) == (1.5, 2)
    assert comparison.only_a == ("z/edit",)
    with pytest.raises(InputError, match="in common"):
        tables(RECORDS, [benched("a", "cold")])


def test_records_of_several_runs_count_once() -> None:
    again = RECORDS[0] | {"total": {"dense_s": 9.0, "record_s": 9.0, "sparse_s": 9.0}}
    mended = benched("c", fidelity=fidelity(20.0, 20.0))
    records, notes = merged([("one", RECORDS), ("two", [again, mended])])
    assert len(records) == len(RECORDS)
    assert records[0] is RECORDS[0]
    assert records[2] is mended  # of a failed one and a done one the done one
    assert notes == ["2 records are in one and two, 1 of them with other scores; the first is taken"]
    assert merged([("one", RECORDS)])[1] == []


def test_every_format_shows_the_same() -> None:
    records = [benched("a", reason="=1+1"), *RECORDS[1:]]
    shown = tables(records, RECORDS[:1])
    console = Console(file=io.StringIO(), width=80)
    console.print(bench_view(shown, "a title", 80))
    assert isinstance(console.file, io.StringIO)
    view, markdown, latex = console.file.getvalue(), bench_markdown(shown, "a title"), bench_latex(shown)
    page = bench_page(shown, records, [], "a title <b>", "a machine")
    for text in (view, markdown, latex, page):
        assert "35.0" in text
        assert "RegionE" in text
    assert max(map(len, view.splitlines())) <= 80
    assert "3 of 4" in view
    assert "<b>" not in page
    assert "<fit>" not in page
    rows = list(csv.DictReader(io.StringIO(bench_csv(shown))))
    [warm] = [row for row in rows if (row["group"], row["way"]) == ("all", "warm")]
    assert (warm["inside_psnr"], warm["inside_psnr_n"], warm["failed"]) == ("35.0", "2", "1")
    assert shown.document()["lines"][0]["means"]["inside_psnr"]["mean"] == 35.0


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_line_of_the_terminals_tables_is_named(width: int) -> None:
    """In full where a third of the width is enough, and nothing is cut."""
    means = {"edit_ratio": 0.1234, "total": {"dense_s": 1234.5, "record_s": 9999.0, "sparse_s": 1.1}}
    records = [
        benched(name, way, edit_type=kind, fidelity=fidelity(30.0 + place, 40.0 + place), **means)
        for place, (name, kind) in enumerate((("a", "add object"), ("b", "change background"), ("c", "add object")))
        for way in ("dense", "warm", "step-skip")
    ]
    console = Console(file=io.StringIO(), width=width)
    console.print(bench_view(tables(records), "a title", width))
    assert isinstance(console.file, io.StringIO)
    view = console.file.getvalue().partition("published")[0]
    for name in ("all edits", "add object", "change background", "warm", "step-skip"):
        assert re.search(f"^{name}", view, re.MULTILINE), name
    assert max(map(cell_len, view.splitlines())) <= width
    assert "…" not in view
    assert ("(30.0–32.0)" in view) == (width >= 80)


def test_a_page_shows_plots_and_some_edits_of_every_type_and_asks_for_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    records = []
    for number in range(24):
        name, kind = f"c{number:02}", ("add object", "change <style>")[number % 2]
        for way in ("dense", "warm", "cold"):
            place = f"{name}/edit/00000000/{way}"
            scores = fidelity(None, None) if way == "dense" else fidelity(30.0 + number, 50.0)
            own = {"images": place, "edit_type": kind, "edit_prompt": "a <b>", "fidelity": scores}
            records.append(benched(name, way, **own))
            files = [tmp_path / "images" / place / "sparse.png"] if way != "dense" else []
            for path in [tmp_path / "images" / name / "edit" / "00000000" / "original.png", *files]:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise.integers(0, 256, (256, 512, 3), dtype=np.uint8)).save(path)
    page = bench_page(tables(records), records, [tmp_path / "none", tmp_path], "a title", "a machine")
    assert page.count("<svg") == 4
    assert page.count("data:image/webp;base64,") == 2 * OF_A_TYPE * 3  # types, edits of each, pictures of an edit
    assert "warm, 30.0 dB" in page
    assert "<b>" not in page
    assert "<style>" not in page.partition("</style>")[2]
    assert not re.findall(r"(?:src|href)=\"(?!data:)[^#]", page)
    assert len(page) < 1_000_000
    # What lies outside the run's folder is not shown, whatever a record says.
    outside = [record | {"images": f"../../{tmp_path.name}/images/{record['images']}"} for record in records]
    (tmp_path / "other" / "images").mkdir(parents=True)
    assert "data:image" not in bench_page(tables(records), outside, [tmp_path / "other"], "a title", "a machine")


def test_limits_are_reached_or_named(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("version: 1\nlimits:\n  warm: {inside_psnr: 30, macs_ratio: 5}\n")
    check_limits(tables(RECORDS[:2]), load_limits(path))
    with pytest.raises(ThresholdError, match="warm: 1 of the edits failed"):
        check_limits(tables(RECORDS), load_limits(path))
    path.write_text("version: 1\nlimits:\n  warm: {inside_psnr: 36}\n  cold: {macs_ratio: 1}\n")
    with pytest.raises(ThresholdError, match="inside_psnr is 35, less than 36; cold: not run"):
        check_limits(tables(RECORDS[:2]), load_limits(path))
    touched = benched("e", fidelity=fidelity(40.0, 50.0) | {"outside_equal": False})
    path.write_text("version: 1\nlimits:\n  warm: {inside_psnr: 30}\n")
    with pytest.raises(ThresholdError, match="warm: in 1 of the edits pixels outside the mask changed"):
        check_limits(tables([*RECORDS[:2], touched]), load_limits(path))
    path.write_text("version: 1\nlimits:\n  warm: {inside_psrn: 36}\n")
    with pytest.raises(SettingsError, match="did you mean 'inside_psnr'"):
        load_limits(path)


def test_progress_says_what_is_left_and_what_failed() -> None:
    time = 0.0
    console = Console(file=io.StringIO(), width=200)
    tasks: list[Any] = [SimpleNamespace(label=name, ways=("dense", "warm")) for name in "abcd"]
    with Progress(console, tasks, now=lambda: time) as progress:
        for task, seconds in zip(tasks[:3], (100.0, 10.0, 30.0), strict=True):
            progress.begin(task)
            time += seconds
            progress.finished(benched(task.label))
            progress.finished(benched(task.label, made=failed))
            progress.end(task)
    # The first case, in which the model is loaded, says nothing of the others: 2 cases in 40 s.
    assert progress.left() == "360 edits/h, 20.0 s a case, 20 s left"
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "failed: a/edit (warm): it did not fit" in said
    assert "3/4 cases, 3 failed (360 edits/h" in said
