"""Profiles: made-up edits, the bytes of a call, what a record holds, and what is derived from it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter
from sparsedit.errors import InputError
from sparsedit.measure.ceilings import Ceilings
from sparsedit.measure.spread import Spread
from sparsedit.measure.traffic import least_bytes
from sparsedit.measure.twin import Twin
from sparsedit.plan import Edit, plan_edit
from sparsedit.profiling.calls import Sampling
from sparsedit.profiling.counts import Counted, StageCount
from sparsedit.profiling.edits import EditRuns, expected_calls, time_edit
from sparsedit.profiling.profile import Profiler
from sparsedit.profiling.subjects import Subject, synthetic_subject
from sparsedit.profiling.synthetic import PATTERNS, synthetic_mask
from sparsedit.report.profile import notes, profile_entry, profile_rows, title
from sparsedit.report.profile_table import HEADINGS, profile_csv, profile_markdown, profile_view
from sparsedit.settings import POLICIES, Settings
from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse
from sparsedit.stages import Stages
from tests.pipelines import controlled, tiny_refiner, tiny_sd15, tiny_sdxl

META = torch.device("meta")
ENVIRONMENT = {
    "processor": {"name": "A processor", "cores": 2},
    "threads": 2,
    "gpus": [],
    "packages": {"torch": "2.15.0"},
}
BEST = Ceilings("A processor", "float32", 1e10, 1e9, {"a product": 1e10}, 0.0)
SETTINGS = Settings(steps=4, strength=0.5, guidance=3.0)


# Made-up edits


@given(st.integers(8, 70), st.integers(8, 70), st.floats(0.0001, 1), st.sampled_from(PATTERNS))
def test_a_made_up_mask_has_the_pixels_asked_for(height: int, width: int, ratio: float, pattern: str) -> None:
    mask = synthetic_mask(height, width, ratio, pattern)
    assert mask.shape == (height, width)
    assert mask.sum() == max(1, round(ratio * height * width))
    assert torch.equal(mask, synthetic_mask(height, width, ratio, pattern))


def test_patterns_are_what_their_names_say() -> None:
    def boxes(pattern: str) -> tuple[int, int]:
        """The area of the mask's bounding box, and how many 8x8 cells it touches."""
        rows, columns = synthetic_mask(128, 256, 0.05, pattern).nonzero().unbind(1)
        box = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        return box, len({(int(y) // 8, int(x) // 8) for y, x in zip(rows, columns, strict=True)})

    pixels = round(0.05 * 128 * 256)
    assert boxes("contiguous")[0] <= 1.05 * pixels
    box, cells = boxes("scattered")
    assert box > 0.9 * 128 * 256
    assert cells == -(-pixels // 64)


def test_a_larger_scattered_edit_holds_the_smaller() -> None:
    small, large = (synthetic_mask(64, 64, ratio, "scattered") for ratio in (0.1, 0.3))
    assert not (small & ~large).any()


# Bytes


def test_least_bytes_are_those_of_the_formula() -> None:
    with META:
        model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 4, 1))
        x = torch.empty(2, 8, 32, 32)
    weights = sum(parameter.numel() for parameter in model.parameters())
    inputs, outputs = 2 * 8 * 32 * 32, 2 * 4 * 32 * 32
    with torch.no_grad():
        assert least_bytes(model, lambda: model(x), x) == 4 * (weights + inputs + outputs)
        cache = ActivationCache()
        with record(model, cache):
            model(x)
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[10:14, 20:22] = True
        with sparse(model, cache, SitePyramid.from_mask(mask)):
            moved = least_bytes(model, lambda: model(x), x, cache)
    halo = 2 * 8 * (6 * 4 - 4 * 2)  # of the first convolution's input; the second one needs none
    assert moved == 4 * (weights + inputs + outputs + halo + outputs)  # and its output is laid over the remembered one


def test_a_weight_that_two_layers_share_is_read_once() -> None:
    with META:
        layer = nn.Linear(64, 64, bias=False)
        x = torch.empty(1, 64)
    model = nn.Sequential(layer, layer)
    assert least_bytes(model, lambda: model(x), x) == 4 * (64 * 64 + 2 * 64)


# Records


@pytest.fixture(autouse=True)
def _ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ceilings of a machine that multiplies 10 G a second and moves 1 GB."""
    monkeypatch.setattr("sparsedit.profiling.profile.ceilings", lambda *_, **__: (BEST, ["said of the ceilings"]))


def subject(edit_prompt: str = "", ratio: float = 0.05, **settings: Any) -> Subject:
    own = Settings.model_validate(SETTINGS.said() | settings)
    return synthetic_subject(own, (96, 64), ratio, "contiguous", "a house", edit_prompt)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_sdxl()


@pytest.fixture(scope="module")
def profile(pipe: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsedit.profiling.profile.ceilings", lambda *_, **__: (BEST, ["said of the ceilings"]))
        return Profiler(pipe, "tiny", sampling=Sampling(2, 1), load=0.0).profile(subject())


def test_a_record_is_json_and_raw(profile: dict[str, Any]) -> None:
    assert json.loads(json.dumps(profile, allow_nan=False)) == profile
    assert list(profile["calls"]) == ["text", "encoder", "unet", "decoder"]
    for stage, call in profile["calls"].items():
        assert len(call["dense"]["seconds"]) == 2
        assert (call["sparse"] is None) == (stage == "text")
    for stage in ("encoder", "unet", "decoder"):
        call = profile["calls"][stage]
        assert 0 < call["sparse"]["macs"] < call["dense"]["macs"]
        assert len(call["sparse"]["seconds"]) == 2
        assert call["cache_bytes"] > 0
    assert profile["size"] == [96, 64]
    assert profile["edit_ratio"] == pytest.approx(0.05, abs=0.001)
    assert profile["batch"] == 2


def test_the_whole_edit_is_its_calls_together(profile: dict[str, Any]) -> None:
    calls, edit = profile["calls"], profile["edit"]
    for kind in ("dense", "sparse"):
        unet = edit["stages"]["unet"][kind]
        assert unet["calls"] == 2  # of 4 steps at strength 0.5
        for key in ("macs", "attention_macs", "least_bytes"):
            assert unet[key] == 2 * calls["unet"][kind][key]
        assert edit["stages"]["decoder"][kind]["macs"] == calls["decoder"][kind]["macs"]
        assert [len(stage[kind]["seconds"]) for stage in edit["stages"].values()][1:] == [2, 2, 2]
        for total, *parts in zip(
            edit["total"][f"{kind}_s"], *(s[kind]["seconds"] for s in edit["stages"].values() if s[kind]["seconds"]),
            strict=True,
        ):  # fmt: skip
            assert total >= sum(parts)


def test_an_edit_under_the_originals_prompt_encodes_no_text(profile: dict[str, Any]) -> None:
    text = profile["edit"]["stages"]["text"]
    assert (text["dense"]["calls"], text["sparse"]["calls"], text["sparse"]["macs"]) == (1, 0, 0)
    assert text["sparse"]["seconds"] == []


def test_an_edit_under_another_prompt_projects_it_once(pipe: Any) -> None:
    made = subject()
    twin = Twin(Stages(pipe), 64, 96, 2)
    sites = plan_edit(SparseEditor(pipe).request(made.original), made.edit, POLICIES["tight"]).sites
    new = StageCount.of(twin, "unet", sites, torch.float32, new_prompt=True)
    assert new.thin is not None
    assert new.first is not None
    # Keys and values: the prompt's tokens of 64 channels to the block's channels, twice for guidance.
    outputs = sum(module.to_k.out_features for name, module in pipe.unet.named_modules() if name.endswith("attn2"))
    assert new.first.macs - new.thin.macs == 2 * 2 * pipe.tokenizer.model_max_length * 64 * outputs
    assert new.together(3, thin=True) == new.first + new.thin + new.thin
    assert new.together(0, thin=True) == Counted()


@pytest.mark.parametrize(
    ("make", "task", "prompt"),
    [
        (tiny_sd15, "sdedit", "a red house"),
        (lambda: tiny_sdxl(in_channels=9), "inpaint", "a house"),
        (lambda: controlled(tiny_sdxl()), "sdedit", "a house"),
    ],
    ids=["new prompt", "inpainting model", "ControlNet"],
)
def test_calls_are_foreseen_as_they_are_made(make: Callable[[], Any], task: str, prompt: str) -> None:
    made = subject(prompt, task=task)
    editor = SparseEditor(make(), break_even=1)
    request = editor.request(made.original, prompt="a house", task=task, steps=4, strength=0.5, guidance=3.0)
    told: list[tuple[int, int]] = []
    timed = time_edit(EditRuns(editor, request, made.edit), Sampling(2, 1), lambda *round: told.append(round))
    assert timed["calls"] == expected_calls(editor, request, made.edit)
    assert timed["calls"]["sparse"]["encoder"] == (2 if task == "inpaint" else 1)
    assert {len(taken) for side in timed["seconds"].values() for taken in side.values()} == {2}  # one for each edit
    assert ("text" in timed["seconds"]["sparse"]) == (prompt != "a house")
    assert timed["calls"]["sparse"].get("controlnet", 2) == timed["calls"]["sparse"]["unet"] == 2
    assert told == [(1, 2), (2, 2)]


def test_counting_alone_runs_nothing_and_counts_the_same(
    profile: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tiny_sdxl().to("meta")
    counted = Profiler(empty, "tiny", sampling=None).profile(subject())
    for stage, call in profile["calls"].items():
        for kind in ("dense", "sparse"):
            for key in ("macs", "attention_macs", "least_bytes"):
                assert (call[kind] or {}).get(key) == (counted["calls"][stage][kind] or {}).get(key)
        assert counted["calls"][stage].get("cache_bytes") == call.get("cache_bytes")
    for stage, entry in profile["edit"]["stages"].items():
        for kind in ("dense", "sparse"):
            assert counted["edit"]["stages"][stage][kind] == entry[kind] | {"seconds": []}
    assert counted["warnings"] == []
    assert counted["ceilings"] is None


@pytest.mark.parametrize(
    ("options", "batch", "whole"),
    [({"stages": ["decoder"]}, 2, False), ({"batch": 1}, 1, False)],
)
def test_the_whole_edit_needs_all_stages_and_its_own_batch(options: Any, batch: int, whole: bool) -> None:
    found = Profiler(tiny_sdxl().to("meta"), "tiny", sampling=None, **options).profile(subject())
    assert (found["batch"], found["edit"] is not None) == (batch, whole)
    assert list(found["calls"]) == options.get("stages", ["text", "encoder", "unet", "decoder"])


def test_a_controlnet_is_a_stage_of_its_own() -> None:
    found = Profiler(controlled(tiny_sdxl()).to("meta"), "tiny", sampling=None).profile(subject())
    assert list(found["calls"]) == ["text", "encoder", "unet", "decoder", "controlnet"]
    dense, sparse = (found["calls"]["controlnet"][kind]["macs"] for kind in ("dense", "sparse"))
    assert 0 < sparse < dense / 3
    assert found["edit"]["stages"]["controlnet"]["sparse"]["calls"] == found["steps_run"]


@pytest.mark.parametrize("prompt", ["", "a red house"], ids=["one prompt", "new prompt"])
def test_a_refiner_is_a_stage_of_its_own(prompt: str) -> None:
    def profiled(sampling: Sampling | None) -> dict[str, Any]:
        base, refiner = tiny_sdxl(), tiny_refiner()
        refiner.register_modules(scheduler=base.scheduler)
        if sampling is None:
            base, refiner = base.to("meta"), refiner.to("meta")
        profiler = Profiler(base, "tiny", refiner=refiner, sampling=sampling)
        return profiler.profile(subject(prompt, steps=10, refine_from=0.8, refiner="tiny-refiner"))

    counted, timed = profiled(None), profiled(Sampling(1, 1))
    assert list(counted["calls"]) == ["text", "encoder", "unet", "refiner", "decoder"]
    base, refiner = tiny_sdxl(), tiny_refiner()
    for stage, pipe in (("unet", base), ("refiner", refiner)):
        assert counted["calls"][stage]["dense"]["macs"] == Twin(Stages(pipe), 64, 96, 2).dense("unet").macs
    texts = [Twin(Stages(pipe), 64, 96, 2).dense("text").macs for pipe in (base, refiner)]
    assert counted["calls"]["text"]["dense"]["macs"] == sum(texts)

    whole = counted["edit"]["stages"]
    # The base's empty negative is zeros, the refiner's is encoded: 1 + 2 texts for a prompt.
    assert [whole[stage]["dense"]["calls"] for stage in whole] == [3, 1, 3, 2, 1]
    assert whole["text"]["dense"]["macs"] == texts[0] + 2 * texts[1]
    assert whole["text"]["sparse"]["macs"] == (whole["text"]["dense"]["macs"] if prompt else 0)
    for stage, entry in timed["edit"]["stages"].items():
        for kind in ("dense", "sparse"):
            assert entry[kind] | {"seconds": []} == whole[stage][kind]
            assert len(entry[kind]["seconds"]) == (0 if entry[kind]["calls"] == 0 else 1)
    costs = Counter().stages(*_refining(base, refiner))
    for stage in ("text", "encoder", "unet", "refiner", "decoder"):
        assert costs[stage].cost().macs == whole[stage]["dense"]["macs"]
    assert "tiny + tiny-refiner" in title(counted)


def _refining(base: Any, refiner: Any) -> tuple[SparseEditor, Any]:
    """An editor with both models, and the request that the subject above makes."""
    editor = SparseEditor(base, refiner=refiner)
    settings = {"prompt": "a house", "steps": 10, "strength": 0.5, "guidance": 3.0, "refine_from": 0.8}
    return editor, editor.request(subject().original, **settings)


def test_an_edit_of_nothing_is_refused(pipe: Any) -> None:
    made = subject()
    nothing = Subject("a", "b", made.original, Edit(made.original), "", made.settings, 0)
    with pytest.raises(InputError, match="a/b changes nothing"):
        Profiler(pipe, "tiny", sampling=None).profile(nothing)


def test_an_edit_that_would_run_dense_is_profiled_thin_and_says_so(pipe: Any) -> None:
    found = Profiler(pipe, "tiny", sampling=None, stages=["decoder"]).profile(subject(ratio=0.9))
    assert found["calls"]["decoder"]["sparse"]["macs"] > 0
    assert found["sites"] == 1
    assert any("reaches 100% of the UNet's sites" in sentence for sentence in found["warnings"])


def test_warnings_of_the_machine_come_along(profile: dict[str, Any], pipe: Any) -> None:
    assert "said of the ceilings" in profile["warnings"]
    assert any(sentence.startswith("2 samples say nothing") for sentence in profile["warnings"])
    busy = Profiler(pipe, "tiny", sampling=Sampling(1, 1), load=1e6, stages=["decoder"]).profile(subject())
    assert busy["warnings"][0].startswith("the machine was busy before the first sample")


def test_operators_without_a_count_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(1, 0, 1, frozenset({"my::matmul"}))
    monkeypatch.setattr("sparsedit.profiling.counts.count_dense", lambda *_: counted)
    found = Profiler(tiny_sdxl().to("meta"), "tiny", sampling=None, stages=["decoder"]).profile(subject())
    assert any("no known count: my::matmul" in sentence for sentence in found["warnings"])


# What is derived


def side(seconds: list[float], macs: int, **more: Any) -> dict[str, Any]:
    return {"macs": macs, "attention_macs": macs // 4, "least_bytes": 10, "seconds": seconds, "uncounted": []} | more


@pytest.fixture
def made() -> dict[str, Any]:
    """A record with numbers that can be followed by hand."""
    call = {"dense": side([8.0, 16.0, 4.0], 8_000_000_000), "sparse": side([2.0, 8.0, 4.0], 2_000_000_000)}
    stages = {
        "unet": {kind: call[kind] | {"calls": 3, "macs": 3 * call[kind]["macs"], "seconds": [30.0]} for kind in call}
    }
    return {
        "case": "synthetic", "variant": "a-2%", "model": "demo", "task": "sdedit", "policy": "tight",
        "size": [64, 32], "batch": 2, "edit_ratio": 0.02, "sites": 0.1, "device": "cpu", "steps_run": 3,
        "sampling": {"samples": 3, "warmup": 1},
        "calls": {"unet": call | {"dtype": "float32", "cache_bytes": 4_000_000}},
        "edit": {
            "stages": stages,
            "total": {"dense_s": [40.0], "sparse_s": [10.0], "record_s": 50.0},
            "memory": {"dense_peak_bytes": 3 * 10**9, "sparse_peak_bytes": 2 * 10**9, "cache_bytes": 12_000_000},
        },
        "ceilings": {"float32": {"macs_per_second": 1e10, "bytes_per_second": 1e9}},
        "warnings": ["a warning"],
    }  # fmt: skip


def test_rows_are_derived_from_the_record_alone(made: dict[str, Any]) -> None:
    call, whole, total = profile_rows(made)
    assert (call.name, whole.name, total.name) == ("unet", "unet, 3 calls", "total")
    assert call.dense.seconds == Spread(8, 4, 16)
    assert call.speedup == Spread(2, 1, 4)  # the median of the rounds' ratios
    assert call.macs_ratio == 4
    # 10 G multiply-adds, attention's included, take 1 s at best; the median was 8 s.
    assert call.dense.share == pytest.approx(1 / 8)
    assert call.sparse.share == pytest.approx(0.25 / 4)
    assert (total.dense.seconds, total.speedup) == (Spread(40, 40, 40), Spread(4, 4, 4))
    assert total.dense.macs == 24_000_000_000
    assert total.cache_bytes == 12_000_000


def test_bytes_are_the_limit_where_they_take_longer(made: dict[str, Any]) -> None:
    made["calls"]["unet"]["sparse"]["least_bytes"] = 2_000_000_000
    assert profile_rows(made)[0].sparse.share == pytest.approx(2 / 4)


def test_what_is_faster_than_the_limit_is_said(made: dict[str, Any]) -> None:
    assert not any("faster than the machine's limit" in note for note in notes(made))
    made["calls"]["unet"]["dense"]["seconds"] = [0.5, 0.5, 0.5]
    [sentence] = [note for note in notes(made) if "faster than the machine's limit" in note]
    assert "--refresh-ceilings" in sentence


@pytest.mark.parametrize("width", [80, 140])
def test_the_tables_fit_and_show_both_ways(made: dict[str, Any], width: int) -> None:
    written = io.StringIO()
    Console(width=width, file=written, highlight=False).print(profile_view([made], ENVIRONMENT, width))
    shown = written.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for text in ("one call", "whole edit", "8.00→2.00", "4.00×", "2.00→0.50", "12%→6%", "4.00 MB", "A processor"):
        assert text in shown
    assert "the second in its context" in " ".join(shown.split())
    assert "a warning" in shown


def test_csv_has_raw_numbers_and_markdown_the_same_cells(made: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(profile_csv([made]))))
    assert [(row["part"], row["stage"]) for row in rows] == [("call", "unet"), ("edit", "unet"), ("edit", "total")]
    assert (rows[0]["dense_macs"], rows[0]["sparse_s"], rows[0]["speedup_high"]) == ("8000000000", "4.0", "4.0")
    text = profile_markdown([made], ENVIRONMENT)
    assert f"| {' | '.join(HEADINGS)} |" in text
    assert "| one call: unet | 8.00→2.00 | 4.00× |" in text
    assert "- a warning" in text


def test_the_entry_is_json_with_its_rows(made: dict[str, Any]) -> None:
    entry = json.loads(json.dumps(profile_entry(made), allow_nan=False))
    assert entry["rows"][0]["speedup"] == {"median": 2, "low": 1, "high": 4}
    assert entry["calls"]["unet"]["dense"]["seconds"] == [8, 16, 4]
