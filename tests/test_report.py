"""Reports: the numbers they derive, that they agree, and that nothing in a record can act on who reads them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from sparsedit.progress import Progress
from sparsedit.records import Record
from sparsedit.report.numbers import duration, figure, percent, size_of
from sparsedit.report.page import MAX_EMBEDDED, PICTURES, render
from sparsedit.report.plots import plots
from sparsedit.report.summary import Summary, summarise
from sparsedit.report.table import WIDE, summary_view
from sparsedit.report.text import printable, records_csv, summary_markdown, to_csv
from tests.sample_records import DENSE_S, ENVIRONMENT, RECORD_S, SPARSE_S, failed, fidelity, record

HOSTILE = '</p><script>alert(1)</script> & "x" [bold]b[/] \x1b[31mred\x07 \u202egnp |`*_ =1+1\nnext'


def terminal(summary: Summary, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False, highlight=False).print(summary_view(summary, width))
    return stream.getvalue()


def csv_rows(records: list[Record]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(records_csv(records))))


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (3014.93, "3015"), (94.87, "94.9"), (16.51, "16.5"), (0.94, "0.94"), (0.0042, "0.0042"), (0, "0")],
)
def test_numbers_have_three_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_units() -> None:
    assert [percent(share) for share in (0.0172, 0.116, 1.0, 0.0)] == ["1.72%", "11.6%", "100%", "0%"]
    assert [size_of(count) for count in (None, 12, 83_000_000)] == ["–", "12 bytes", "83.0 MB"]
    assert [duration(seconds) for seconds in (0.2, 59.4, 65, 7800)] == ["0 s", "59 s", "1 min 05 s", "2 h 10 min"]


# Derived numbers


def test_ratios_of_an_edit() -> None:
    [row] = summarise([record()]).rows
    assert row.speedup == DENSE_S / SPARSE_S
    assert row.first_speedup == DENSE_S / (RECORD_S + SPARSE_S)
    assert row.macs_ratio == 10


def test_an_edit_without_a_dense_one_still_tells_its_multiply_adds() -> None:
    alone = record(fidelity=None, total={"dense_s": None, "record_s": RECORD_S, "sparse_s": SPARSE_S})
    for passes in alone["stages"].values():
        passes["dense"] = None
    [row] = summarise([alone]).rows
    assert row.macs_ratio == 10
    assert (row.speedup, row.first_speedup, row.inside_psnr) == (None, None, None)


def test_same_and_changed_prompts_have_means_of_their_own() -> None:
    changed = {"prompt_changed": True, "edit_prompt": "a house"}
    records = [
        record(variant="a", fidelity=fidelity(40.0, 50.0)),
        record(variant="b", fidelity=fidelity(30.0, 40.0)),
        record(variant="c", fidelity=fidelity(20.0, 30.0), **changed),
    ]
    same, new = summarise(records).means
    assert (same.inside_psnr, same.whole_psnr, same.prompt_changed) == (35.0, 45.0, False)
    assert (new.inside_psnr, new.prompt_changed) == (20.0, True)
    assert "* the prompt changed" in " ".join(summarise(records).notes)


def test_a_means_ratios_are_those_of_its_means() -> None:
    fast = record(variant="a", total={"dense_s": 10.0, "record_s": 10.0, "sparse_s": 1.0})
    slow = record(variant="b", total={"dense_s": 10.0, "record_s": 10.0, "sparse_s": 4.0})
    [mean] = summarise([fast, slow]).means
    assert mean.speedup == pytest.approx(10 / 2.5)
    assert mean.first_speedup == pytest.approx(10 / 12.5)


def test_only_thin_edits_enter_means_and_stages() -> None:
    others = [failed(variant="f"), record(variant="d", way="dense"), record(variant="n", way="none")]
    summary = summarise([record(variant="a"), record(variant="b"), *others])
    assert [mean.name for mean in summary.means] == ["mean of 2, same prompt"]
    assert {stage.stage: stage.speedup for stage in summary.stages}["unet"] == 12
    assert summarise(others).means == summarise(others).stages == ()
    assert (summary.done, len(summary.rows)) == (4, 5)


def test_no_mean_is_made_of_one_edit() -> None:
    assert summarise([record()]).means == ()


def test_means_compare_times_of_the_same_edits() -> None:
    with_dense = record(variant="a", total={"dense_s": 10.0, "record_s": 10.0, "sparse_s": 1.0})
    without = record(variant="b", total={"dense_s": None, "record_s": 10.0, "sparse_s": 9.0})
    [mean] = summarise([with_dense, without]).means
    assert mean.speedup == 10


def test_stages_are_medians_of_whole_passes() -> None:
    records = [record(variant=name) for name in "abc"]
    records[0]["stages"]["unet"]["dense"]["seconds"] = [100.0, 100.0]
    stages = {stage.stage: stage for stage in summarise(records).stages}
    assert (stages["unet"].dense_s, stages["unet"].sparse_s) == (6.0, 0.5)
    assert stages["text"].sparse_s is None
    assert stages["decoder"].macs_ratio == 10


def test_reasons_become_notes_once() -> None:
    missing = {"lpips": "no weights"}
    records = [failed("too odd", variant="f"), record(variant="d", way="dense", reason="huge", missing=missing)]
    notes = summarise([*records, record(missing=missing)]).notes
    assert notes == ("meadow/f failed: too odd", "meadow/d: huge", "lpips: no weights")


def test_identical_pictures_are_called_equal_and_an_untouched_one_is_not_scored() -> None:
    same, untouched = record(fidelity=fidelity(None, None)), record(way="none", fidelity=fidelity(None, 11.4))
    assert csv_rows([same])[0]["inside_psnr"] == ""
    assert "equal" in terminal(summarise([same]))
    assert "equal" not in terminal(summarise([untouched]))
    assert "11.4" not in terminal(summarise([untouched]))


def test_the_machine_is_named() -> None:
    machine = summarise([record()], ENVIRONMENT).machine
    assert machine.startswith("A processor, 2 cores · float32 on cpu · torch 9.9.9")
    assert "peak memory 2.00 GB · cache 80.0 MB" in machine
    gpu = ENVIRONMENT | {"gpus": [{"name": "A GPU"}]}
    assert summarise([record(device="cuda:0")], gpu).machine.startswith("A GPU")
    assert "A GPU" not in summarise([record()], gpu).machine
    assert summarise([record()]).machine.startswith("float32 on cpu")


# The same numbers everywhere


def test_every_report_shows_the_same_numbers() -> None:
    records = [record(), record(variant="sun", prompt_changed=True), failed("too odd", variant="f")]
    summary = summarise(records, ENVIRONMENT)
    shown = [terminal(summary), terminal(summary, 200), summary_markdown(summary), render(Path("none"), records)]
    for text in shown:
        for number in ("1.72%", "10.0→1.00", "10.0×", "8.00→1.00", "8.00×", "0.80×", "40.0", "50.0", "too odd"):
            assert number in text
    first = csv_rows(records)[0]
    assert (float(first["speedup_nth"]), float(first["speedup_first"])) == (8.0, 0.8)
    assert (first["unet_dense_macs"], first["unet_sparse_s"], first["width"]) == ("10000000000", "0.5", "512")


def test_there_is_a_report_of_nothing() -> None:
    summary = summarise([])
    assert (records_csv([]), summary.done) == ("", 0)
    assert "case/variant" in terminal(summary)
    assert "case/variant" in summary_markdown(summary)
    assert "0 of 0" in render(Path("none"), [])


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=100)


@given(names, names, st.sampled_from([80, 100, WIDE, 200]))
def test_tables_fit_the_terminal(case: str, edit_type: str, width: int) -> None:
    records = [record(case=case, edit_type=edit_type, reason=edit_type), failed(edit_type, case=case)]
    lines = terminal(summarise(records, ENVIRONMENT), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_column_is_lost_on_a_narrow_terminal(width: int) -> None:
    records = [record(case=name, total={"dense_s": 1234.5, "record_s": 9999.0, "sparse_s": 0.0012}) for name in "ab"]
    text = terminal(summarise(records, ENVIRONMENT), width)
    for said in ("case/variant", "a/house", "b/house", "alongside", "10.0→1.00", "1234→0.0012", "add object", "40.0"):
        assert said in text, said
    assert max(map(cell_len, text.splitlines())) <= width


def test_an_edit_has_one_line_where_there_is_room() -> None:
    summary = summarise([record()])
    [line] = [line for line in terminal(summary, WIDE).splitlines() if "meadow/house" in line]
    assert "add object" in line
    assert "50.0" in line


# Nothing in a record acts


def test_markup_and_escapes_do_not_reach_a_terminal() -> None:
    text = terminal(summarise([record(edit_type=HOSTILE, reason=HOSTILE), failed(HOSTILE, case=HOSTILE)]), 200)
    assert "[bold]b[/]" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


@given(st.text())
def test_printable_text_is_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable() or not any(ord(character) < 32 for character in shown)
    assert printable("a red house, 屋根 é") == "a red house, 屋根 é"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "＝", "＠"])  # noqa: RUF001
def test_no_cell_is_a_formula(start: str) -> None:
    [row] = csv_rows([record(edit_prompt=f'{start}HYPERLINK("http://x")')])
    assert row["edit_prompt"].startswith("'")


def test_csv_keeps_text_and_numbers_apart() -> None:
    text = to_csv([{"text": 'a, "b"', "number": -1.5, "nothing": None, "truth": True}])
    assert list(csv.reader(io.StringIO(text)))[1] == ['a, "b"', "-1.5", "", "True"]
    [row] = csv_rows([record(edit_prompt=HOSTILE)])
    assert "\x1b" not in row["edit_prompt"]
    assert "\n" not in row["edit_prompt"]


def test_markdown_shows_hostile_text_as_it_is() -> None:
    text = summary_markdown(summarise([record(edit_type=HOSTILE, reason=HOSTILE)]))
    assert "<" not in text
    assert "\\|\\`\\*\\_" in text
    tables = [line for line in text.splitlines() if line.startswith("| meadow/house")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in tables] == [12]


def test_a_page_shows_hostile_text_as_it_is(tmp_path: Path) -> None:
    evil = {
        "original_prompt": HOSTILE,
        "edit_prompt": HOSTILE,
        "edit_type": HOSTILE,
        "reason": HOSTILE,
        "model": HOSTILE,
    }
    page = render(tmp_path, [record(prompt_changed=True, **evil), failed(HOSTILE, case=HOSTILE)])
    assert page.count("<script>") == 1
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


# The page's pictures


def with_pictures(folder: Path, count: int) -> list[Record]:
    records = [record(variant=f"v{number}") for number in range(count)]
    for each in records:
        place = folder / "images" / each["case"] / each["variant"]
        place.mkdir(parents=True)
        for name in PICTURES:
            Image.new("RGB", (2, 2)).save(place / f"{name}.png")
    return records


def test_few_pictures_are_inside_the_page(tmp_path: Path) -> None:
    page = render(tmp_path, with_pictures(tmp_path, MAX_EMBEDDED // len(PICTURES)), ENVIRONMENT)
    assert page.count('src="data:image/png;base64,') == MAX_EMBEDDED
    assert page.count("src=") == MAX_EMBEDDED
    assert not re.search(r"https?:|<link|<script |@import|url\((?!#)", page)


def test_many_pictures_are_beside_the_page(tmp_path: Path) -> None:
    records = with_pictures(tmp_path, MAX_EMBEDDED // len(PICTURES) + 1)
    sources = re.findall(r'src="([^"]*)"', render(tmp_path, records))
    assert len(sources) == len(records) * len(PICTURES)
    assert all((tmp_path / source).is_file() for source in sources)


def test_pictures_come_from_the_runs_folder_alone(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside" / "v"
    outside.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(outside / "sparse.png")
    (run / "images" / "linked").mkdir(parents=True)
    (run / "images" / "linked" / "v").symlink_to(outside)
    records = [record("../../outside", "v"), record(str(tmp_path / "outside"), "v"), record("linked", "v")]
    assert "<img src" not in render(run, records)


# Progress


def test_the_time_left_follows_the_steps_done() -> None:
    now = [0.0]
    stream = io.StringIO()
    with Progress(Console(file=stream), edits=2, steps=10, now=lambda: now[0]) as progress:
        assert progress.left() == ""
        for _ in range(4):
            now[0] += 15
            progress.step()
        assert progress.left() == "1 min 30 s left"
        progress.finished(record())
        for _ in range(20):
            progress.step()
        assert progress.left() == "0 s left"
        progress.finished(failed(variant="sun"))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "1/2 meadow/house: alongside, n-th edit 8.00×, 40.0 dB inside (1 min 30 s left)",
        "2/2 meadow/sun: failed",
    ]


# Plots


def test_every_point_of_a_plot_leads_to_its_edit() -> None:
    rows = [
        record(variant=name, edit_type=kind, edit_ratio=ratio, fidelity=fidelity(40.0, 50.0))
        for name, kind, ratio in (("a", "add object", 0.01), ("b", "change colour", 0.2), ("c", "add object", 0.05))
    ]
    made = {plot.title: str(plot.svg) for plot in plots(summarise([failed(variant="f"), *rows]).rows)}
    assert list(made) == [
        "Fidelity against speed-up",
        "Speed-up against size of the edit",
        "Fidelity by type of edit",
        "Speed-up by type of edit",
    ]
    for title in list(made)[:2]:
        assert [f'xlink:href="#edit-{place}"' in made[title] for place in (1, 2, 3, 4)] == [False, True, True, True]
    assert "add object" in made["Speed-up by type of edit"]
    assert all("currentColor" in svg and "http" not in svg for svg in made.values())


def test_there_is_no_plot_of_one_edit_and_a_hostile_type_stays_text() -> None:
    assert plots(summarise([record()]).rows) == []
    types = (HOSTILE, "$\\frac{", "屋根")
    [first, *_] = plots(summarise([record(variant=kind, edit_type=kind) for kind in types]).rows)
    assert "<script" not in first.svg
    assert "\x1b" not in first.svg
    assert "屋根" in first.svg
