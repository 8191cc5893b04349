"""`sparsedit compare`: pictures, folders, PIE-Bench's folder and runs; every format; thresholds and exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from sparsedit.cli import run
from sparsedit.errors import InputError, SettingsError, ThresholdError
from sparsedit.metrics.backbones import FOLDER_VARIABLE
from sparsedit.metrics.comparison import Case, Comparison, judge
from sparsedit.metrics.interval import mean_interval
from sparsedit.metrics.pixels import psnr, unit
from sparsedit.metrics.threshold import parse_threshold
from sparsedit.records import Record, append_record
from sparsedit.report.comparison import comparison_latex, comparison_markdown, comparison_view, notes
from sparsedit.report.difference import compare_runs
from sparsedit.suites.rle import encode
from tests.sample_records import failed, fidelity, record

PIXELS = ["--metrics", "ssim,psnr,mse"]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders of pictures, `a` and `b`, in which b's differ from a's inside a square alone."""
    for number, name in enumerate(("one", "two", "deep/three")):
        noise = np.random.default_rng(number).integers(0, 240, (40, 48, 3), dtype=np.uint8)
        for folder in "ab":
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(path)
            noise = noise.copy()
            noise[10:20, 10:20] += np.uint8(4 * (number + 1))
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run(["compare", *map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(out(capsys).splitlines()[-1])
    return result


# Pictures


def test_two_pictures_under_the_default_protocol(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [case] = document(capsys, pictures / "a/one.png", pictures / "b/one.png")["cases"]
    assert case["protocol"] == "whole-v1"
    assert case["psnr"] > 30
    assert case["lpips"] is case["clip"] is None
    assert "sparsedit models pull lpips" in case["missing"]["lpips"]


def test_a_mask_turns_to_the_background(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (pictures / "a/one.png", pictures / "b/one.png", "--mask", pictures / "mask.png", *PIXELS)
    [case] = document(capsys, *arguments)["cases"]
    assert (case["protocol"], case["identical"], case["psnr"], case["mse"]) == ("pnp-v1", True, None, 0.0)
    [case] = document(capsys, *arguments, "--protocol", "sparse-vs-dense")["cases"]
    inside = np.s_[10:20, 10:20]
    a, b = (unit(Image.open(pictures / folder / "one.png")) for folder in "ab")
    assert case["inside_psnr"] == pytest.approx(psnr(a[inside], b[inside]))


def test_folders_are_matched_by_name_and_strangers_listed(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "a/one.png").rename(pictures / "a/lonely.png")
    Image.open(pictures / "b/two.png").save(pictures / "b/two.bmp")
    (pictures / "b/two.png").unlink()
    (pictures / "b/notes.txt").write_text("no picture")
    result = document(capsys, pictures / "a", pictures / "b", *PIXELS)
    assert [case["name"] for case in result["cases"]] == ["deep/three", "two"]
    assert (result["only_a"], result["only_b"]) == (["lonely"], ["one"])
    [everything] = result["means"]
    assert everything["means"]["psnr"]["mean"] == pytest.approx(np.mean([case["psnr"] for case in result["cases"]]))


def test_a_pair_that_cannot_be_scored_is_a_row_with_its_reason(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 30)).save(pictures / "b/two.png")
    arguments = ["compare", str(pictures / "a"), str(pictures / "b"), "--protocol", "pnp-v1", "--metrics", "psnr"]
    assert run([*arguments, "--mask", str(pictures / "mask.png"), "--json"]) == 1
    rows = {case["name"]: case for case in json.loads(out(capsys).splitlines()[-1])["cases"]}
    assert rows["two"]["status"] == "failed"
    assert "30x30" in rows["two"]["reason"]
    assert rows["one"]["status"] == "ok"


def test_a_pie_bench_folder_brings_masks_prompts_and_types(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((40, 48), dtype=bool)
    mask[10:20, 10:20] = True
    everywhere = np.ones((40, 48), dtype=bool)
    (pictures / "pie").mkdir()
    (pictures / "a").rename(pictures / "pie/annotation_images")
    mapping = {
        Path(name).name: {
            "image_path": f"{name}.png",
            "original_prompt": "a house",
            "editing_prompt": "a [red] house",
            "editing_instruction": "paint it",
            "editing_type_id": kind,
            "blended_word": "",
            "mask": encode(mask if name != "two" else everywhere),
        }
        for name, kind in (("one", "1"), ("two", "1"), ("deep/three", "9"))
    }
    (pictures / "pie/mapping_file.json").write_text(json.dumps(mapping))
    result = document(capsys, pictures / "pie", pictures / "b", *PIXELS)
    assert {case["name"]: case["edit_type"] for case in result["cases"]}["deep/three"] == "change style"
    everything, first, style = result["means"]
    assert (everything["left_out"]["ssim"], everything["means"]["ssim"]["count"]) == (1, 2)
    assert (first["name"], first["count"], style["count"]) == ("change object", 2, 1)
    covered = next(case for case in result["cases"] if case["name"] == "two")
    assert "covers everything" in covered["missing"]["psnr"]


def test_every_format_holds_the_values(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(pictures / "a"), str(pictures / "b"), *PIXELS, "--output-format"]
    texts = {}
    for form in ("table", "json", "csv", "md", "latex"):
        assert run([*arguments, form]) == 0
        texts[form] = out(capsys)
    value = json.loads(texts["json"])["cases"][0]["psnr"]
    assert float(next(csv.DictReader(io.StringIO(texts["csv"])))["psnr"]) == value
    for form in ("table", "md", "latex"):
        assert f"{value:.4g}" in texts[form]
        assert "mean of 3" in texts[form]
    assert texts["latex"].startswith(r"\begin{tabular}{lrrr}")
    assert max(map(cell_len, texts["table"].splitlines())) <= 80


def test_the_protocol_explains_itself_without_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--protocol", "pnp-v1", "--explain"]) == 0
    assert "zeros staying in every mean" in out(capsys)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (["--fail-if", "psnr<30"], 0),
        (["--fail-if", "psnr<30", "--fail-if", "ssim<=0.9999"], 3),
        (["--fail-if", "mse > 1e-9"], 3),
        (["--fail-if", "lpips>0.1", "--metrics", "lpips"], 2),
        (["--fail-if", "pnsr<30"], 2),
        (["--fail-if", "psnr is low"], 2),
        (["--metrics", "psnr,niqe"], 2),
        (["--protocol", "pnp"], 2),
        (["--baseline", "x"], 2),
    ],
)
def test_exit_codes(pictures: Path, extra: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(pictures / "a/two.png"), str(pictures / "b/two.png")]
    assert run(["compare", *pair, *PIXELS, *extra]) == code
    said = capsys.readouterr()
    assert (said.err != "") == (code != 0)
    if code == 2:
        assert said.out == ""
    if code == 3:
        assert "it is" in said.err


def test_identical_pictures_pass_a_floor_and_fail_a_ceiling(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = ["compare", str(pictures / "a/one.png"), str(pictures / "a/one.png"), *PIXELS]
    assert run([*same, "--fail-if", "psnr<30"]) == 0
    assert "equal" in out(capsys)
    assert run([*same, "--fail-if", "psnr>30"]) == 3


def test_a_region_that_is_equal_is_no_value_left_out(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(pictures / "a"), str(pictures / "b"), "--mask", str(pictures / "mask.png"), *PIXELS]
    arguments += ["--protocol", "sparse-vs-dense"]
    result = document(capsys, *arguments)
    assert {tuple(case["equal"]) for case in result["cases"]} == {("outside_psnr",)}
    assert not any(case["identical"] for case in result["cases"])
    assert result["means"][0]["left_out"]["outside_psnr"] == 0
    assert run(["compare", *arguments, "--fail-if", "outside_psnr<90"]) == 0
    assert run(["compare", *arguments, "--fail-if", "outside_psnr>90"]) == 3


def test_a_threshold_on_a_region_whose_network_is_missing_is_refused(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(pictures / "a/one.png"), str(pictures / "b/one.png"), "--protocol", "sparse-vs-dense"]
    assert run(["compare", *pair, "--fail-if", "inside_lpips>0.1"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "sparsedit models pull lpips" in said.err


def test_what_a_protocol_does_not_look_at_is_said(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["compare", str(pictures / "a/one.png"), str(pictures / "b/one.png"), "--metrics", "psnr"]
    mask = ["--mask", str(pictures / "mask.png")]
    for extra, warned in (
        ([*mask, "--protocol", "whole-v1"], "--mask changes nothing"),
        ([*mask, "--protocol", "whole-v1", "--metrics", "seam"], ""),
        ([*mask, "--protocol", "pnp-v1"], ""),
        (["--prompt", "x", "--protocol", "sparse-vs-dense"], "--prompt changes nothing"),
    ):
        assert run([*pair, *extra]) == 0
        err = capsys.readouterr().err
        assert (warned in err) if warned else err == ""


# Runs


def run_of(*psnrs: float, **changes: Any) -> list[Record]:
    return [record(variant=f"v{place}", fidelity=fidelity(one, 50.0), **changes) for place, one in enumerate(psnrs)]


def test_runs_are_paired_and_subtracted() -> None:
    total = {"dense_s": 8.0, "record_s": 9.0, "sparse_s": 2.0}
    comparison = compare_runs(run_of(40, 30, 20), [*run_of(41, 33, total=total), record(variant="new")])
    assert [case.values["inside_psnr"] for case in comparison.cases] == [1, 3]
    assert [case.values["speedup"] for case in comparison.cases] == [-4, -4]
    assert (comparison.only_a, comparison.only_b) == (("meadow/v2",), ("meadow/new",))
    mean = comparison.groups()[0].means["inside_psnr"]
    assert mean is not None
    assert (mean.mean, mean.count) == (2, 2)


def test_runs_are_compared_for_each_type_of_edit() -> None:
    types = ("change colour", "add object")
    before = [record(variant=kind, edit_type=kind, fidelity=fidelity(30, 50.0)) for kind in types]
    after = [record(variant=kind, edit_type=kind, fidelity=fidelity(31, 50.0)) for kind in types]
    assert [group.name for group in compare_runs(before, after).groups()] == ["all", *types]


def test_an_edit_that_failed_has_no_difference() -> None:
    comparison = compare_runs([record(variant="a"), record(variant="b")], [failed(variant="a"), record(variant="b")])
    assert comparison.cases[0].reason == "it failed in the run"
    assert comparison.groups()[0].count == 1


def test_runs_in_several_ways_are_paired_by_way() -> None:
    ways = [record(way="warm"), record(way="alongside")]
    assert [case.name for case in compare_runs(ways, ways).cases] == ["meadow/house (warm)", "meadow/house (alongside)"]
    with pytest.raises(InputError, match="more than once"):
        compare_runs([record(), record()], [record()])
    with pytest.raises(InputError, match="no edit in common"):
        compare_runs([record()], [record(case="other")])


def test_benches_are_paired_by_the_way_that_was_asked_for() -> None:
    """Skipped steps and crops run densely, so `way` alone does not tell them apart."""
    bench = {"cell": "", "configuration": "c" * 16, "track": "mask-derived"}
    records = [record(way="dense", bench=bench | {"way": way}) for way in ("dense", "step-skip", "crop")]
    comparison = compare_runs(records, records)
    names = [case.name for case in comparison.cases]
    assert [group.name for group in comparison.groups()] == ["all", "dense", "step-skip", "crop"]
    assert names == [f"meadow/house ({way})" for way in ("dense", "step-skip", "crop")]


def test_a_run_against_its_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, records in (("old", run_of(40, 30)), ("new", run_of(39, 28))):
        (tmp_path / name).mkdir()
        for one in records:
            append_record(tmp_path / name / "records.jsonl", one)
    command = ["compare", str(tmp_path / "new"), "--baseline", str(tmp_path / "old")]
    assert run([*command, "--json", "--output-format", "json"]) == 0
    result = json.loads(out(capsys))
    assert result["means"][0]["means"]["inside_psnr"]["mean"] == -1.5
    assert result["cases"][0]["baseline"]["inside_psnr"] == 40
    assert run([*command, "--fail-if", "inside_psnr<-1"]) == 3
    assert run([*command, "--protocol", "pnp-v1"]) == 2


# Intervals and tables


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_more_values() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 400).tolist()
    few, many = mean_interval(values[:20]), mean_interval(values)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.high - many.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert mean_interval(values) == many


def test_intervals_of_little() -> None:
    assert mean_interval([]) is None
    one, same = mean_interval([3.0]), mean_interval([2.0, 2.0])
    assert one is not None
    assert same is not None
    assert (one.low, one.high, same.low, same.high) == (None, None, 2, 2)


@pytest.mark.parametrize("text", ["psnr", "psnr=30", "psnr<", "<30", "psnr<30dB", "psnr<nan"])
def test_what_is_no_threshold(text: str) -> None:
    with pytest.raises(SettingsError, match="for instance"):
        parse_threshold(text)


def test_a_value_that_does_not_exist_meets_no_threshold() -> None:
    nothing = Comparison("x", ("psnr",), (Case("a", {"psnr": None}),))
    with pytest.raises(ThresholdError, match="no case has this value"):
        judge(nothing, [parse_threshold("psnr<30")])


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_of_many_columns_fits_the_terminal(width: int) -> None:
    columns = tuple(f"inside_metric{place}" for place in range(9))
    cases = tuple(
        Case(name, dict.fromkeys(columns, value), kind)
        for name, value, kind in (
            ("one", 1.2e-5, "add object"),
            ("a" * 90, -3015.93, "change background"),
            ("c", 3.2, "x"),
        )
    )
    stream = io.StringIO()
    Console(file=stream, width=width).print(comparison_view(Comparison("protocol x", columns, cases), width))
    lines = stream.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert sum(line.count("1.2e-05") for line in lines) == 2 * len(columns)  # the case, and its type's mean
    assert "…" not in stream.getvalue()


def test_six_columns_and_names_fit_80_columns_in_one_table() -> None:
    columns = ("ssim", "psnr", "mse", "lpips", "clip", "structure")
    cases = tuple(Case(f"a-case-of-some-length-{place}", dict.fromkeys(columns, 0.1234)) for place in range(2))
    stream = io.StringIO()
    Console(file=stream, width=80).print(comparison_view(Comparison("whole-v1", columns, cases), 80))
    assert stream.getvalue().count("case ") == 1
    assert max(map(cell_len, stream.getvalue().splitlines())) <= 80


def test_a_reason_that_many_cases_have_is_said_once() -> None:
    why = {"psnr": "needs a mask", "ssim": "needs a mask"}
    cases = tuple(Case(f"c{place}", {"psnr": None, "ssim": None}, missing=why) for place in range(700))
    said = notes(Comparison("x", ("psnr", "ssim"), cases, {"clip": "no weights", "clip_edited": "no weights"}))
    assert said[0] == "clip, clip_edited: no weights"
    assert said[1].endswith("c9 and 690 more: psnr, ssim: needs a mask")
    assert len(said) == 2


HOSTILE = "evil\x1b[31m|[red] $x$ \\input{a} <script>"


def test_hostile_names_stay_text_in_every_table() -> None:
    comparison = Comparison("x", ("psnr",), (Case(HOSTILE, {"psnr": 31.0}), Case("b", reason=HOSTILE)))
    stream = io.StringIO()
    Console(file=stream, width=80, highlight=False, markup=False).print(comparison_view(comparison, 80))
    for text in (stream.getvalue(), comparison_markdown(comparison), comparison_latex(comparison)):
        assert "\x1b" not in text
    assert r"\$x\$ \textbackslash{}input\{a\}" in comparison_latex(comparison)
    assert "<script>" not in comparison_markdown(comparison)
    assert any("evil" in note for note in notes(comparison))
