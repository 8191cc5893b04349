"""The demo model's card: targets judged as they are set, and nothing told that was not measured."""

from __future__ import annotations

import json

import pytest

from sparsedit.errors import InputError
from training import curve, figures
from training.attributes import ATTRIBUTES
from training.card import validation, write_card
from training.hashes import digest, weight_hashes
from training.log import Log
from training.settings import DEMO


def some_counts(right: int) -> dict[str, object]:
    group = {"count": 100, "generated": right, "rendered": 99, "majority": 40}
    return {name: {"all": group, "named": group} for name in ATTRIBUTES}


class TestFigures:
    def test_intervals_are_wilsons(self):
        assert figures.interval(90, 100) == "82.6–94.5 %"
        assert figures.interval(0, 0) == "–"

    def test_a_target_is_reached_at_its_value_and_not_below(self):
        rows = {line.split(" | ")[0]: line for line in figures.adherence(some_counts(90)).splitlines()}
        assert "| yes |" in rows["| house there, on the side told"]
        assert "| **no** |" in rows["| time of day"]
        assert "| **no** |" in figures.adherence(some_counts(89)).splitlines()[6]
        assert rows["| house there, on the side told"].endswith("| 99.0 % | 40.0 % | 90.0 % |")

    def test_few_steps_are_held_to_ten_points_of_the_worst_attribute(self):
        few = {"guidance": 0.0, "4": some_counts(80), "1": some_counts(50)}
        told = figures.few_step(some_counts(90), few)
        assert "| 90.0 % | 80.0 % | 50.0 % | -10.0 |" in told
        assert told.endswith("10.0 points. Target: at most 10 – reached: yes.")
        few["4"] = some_counts(79)
        assert figures.few_step(some_counts(90), few).endswith("reached: **no**.")

    def test_sketches_have_to_be_closer_by_both(self):
        def row(ssim, probe):
            both = {"sketch": 0.5, "closer": 3}
            read = {"sketch": 50, "rendered": 99, "attributes": 110, "closer": 3, "farther": 1}
            return {
                "count": 10,
                "ssim": {**both, "result": ssim},
                "psnr": {**both, "result": 20.0},
                "probe": {**read, "result": probe},
            }

        assert figures.sketches_verdict({"0.2": row(0.6, 40), "0.4": row(0.4, 60)}).endswith("reached: **no**.")
        assert figures.sketches_verdict({"0.2": row(0.6, 60)}).endswith("reached: yes.")
        assert "30.0 %" in figures.sketches({"0.2": row(0.6, 60)})

    def test_a_time_on_a_busy_machine_reaches_nothing(self):
        result = {"seconds": [1.0, 1.2, 1.1], "load_averages": [0.1, 0, 0], "threads": 2}
        assert figures.pace(result, 2).endswith("reached: yes.")
        assert "Median of 3: 1.10 s" in figures.pace(result, 2)
        assert "upper bound" in figures.pace(result | {"load_averages": [1.5, 1, 1]}, 2)


class TestCard:
    def test_of_nothing_measured_it_says_so(self, tmp_path):
        write_card(tmp_path / "card.md", tmp_path, tmp_path / "none", tmp_path / "score.json")
        text = (tmp_path / "card.md").read_text()
        assert text.count("Not measured") >= 7
        assert text.count("| no log |") == 8
        assert "%" not in text.partition("## Limits")[0]

    def test_it_says_which_figures_are_of_other_weights(self, tmp_path):
        section = {
            "settings": {"steps": 20, "guidance": 4.0},
            "files": {"sparsedit/models/demo": "0" * 12, "elsewhere/probe.pt": "1" * 12},
            "machine": {"processor": {"name": "X", "cores": 2}, "gpus": [], "packages": {"torch": "2"}},
            "result": {"seconds": [1.0], "load_averages": [0.0, 0.0, 0.0], "threads": 2},
        }
        for files, stale in ((section["files"], True), ({"sparsedit/models/demo": digest(DEMO)}, False)):
            (tmp_path / "score.json").write_text(json.dumps({"time": {**section, "files": files}}))
            write_card(tmp_path / "card.md", tmp_path, tmp_path, tmp_path / "score.json")
            assert ("**Out of date:** “time”" in (tmp_path / "card.md").read_text()) == stale

    def test_runs_and_validations_come_from_the_logs(self, tmp_path):
        log = Log(tmp_path / "tiny.jsonl")
        machine = {"processor": {"name": "X", "cores": 2}, "gpus": [{"name": "G"}], "packages": {"torch": "2"}}
        settings = {"schedule": {"minutes": 10, "batch": 3, "rate": 0.01}}
        header = {"name": "tiny", "workers": 2, "settings": settings, "machine": machine}
        log.begin({**header, "validation": {"psnr": 10.0}})
        step = {"step": 5, "minutes": 9.6, "samples": 30, "loss": 1.0, "samples_per_second": 4.0}
        log.add({**step, "validation": {"psnr": 29.5}})
        write_card(tmp_path / "card.md", tmp_path, tmp_path, tmp_path / "score.json")
        text = (tmp_path / "card.md").read_text()
        assert "| `tiny` | 10 of 10 | 3 x 2 | 0.01 | 30 | 4.0 | psnr 10.000 → 29.500 |" in text
        assert "| psnr | 10.0000 | 29.5000 |" in text
        assert "Machines: 2 cores of X, G, torch 2." in text
        assert "no log" in validation("refiner", [])

    def test_edges_are_told_as_they_were_measured(self, tmp_path):
        measured = {"settings": {"pictures": 8, "scale": 1.0, "tolerance": 2}, "f1": {"with": 0.75, "without": 0.25}}
        (tmp_path / "agreement.json").write_text(json.dumps(measured))
        write_card(tmp_path / "card.md", tmp_path, tmp_path, tmp_path / "score.json")
        text = (tmp_path / "card.md").read_text()
        assert "edges of 8 held-out scenes given, scale 1.0" in text
        assert "| with | 0.750 |" in text
        assert "canny.png: not made" in text


class TestCurves:
    def test_they_are_drawn_from_a_log(self, tmp_path):
        pytest.importorskip("matplotlib")
        log = Log(tmp_path / "toy.jsonl")
        log.begin(
            {"name": "toy", "workers": 1, "machine": {"processor": {"name": "X"}}, "validation": {"a": 1.0, "b": 2.0}}
        )
        for step in (1, 2):
            log.add(
                {"step": step, "minutes": step, "loss": 1 / step, "samples": step, "validation": {"a": 0.5, "b": 1}}
            )
        curve.draw(log.path, tmp_path / "docs" / "toy.png")
        assert (tmp_path / "docs" / "toy.png").read_bytes().startswith(b"\x89PNG")

    def test_without_steps_there_is_nothing_to_draw(self, tmp_path):
        pytest.importorskip("matplotlib")
        with pytest.raises(InputError, match="no steps"):
            curve.draw(tmp_path / "none.jsonl", tmp_path / "toy.png")


class TestHashes:
    def test_they_change_with_content_and_with_names(self, tmp_path):
        folder = tmp_path / "model"
        (folder / "unet").mkdir(parents=True)
        weights = folder / "unet" / "a.safetensors"
        weights.write_bytes(b"1")
        first = digest(folder)
        assert list(weight_hashes([folder])) == ["model/unet/a.safetensors"]
        weights.write_bytes(b"2")
        second = digest(folder)
        weights.rename(weights.with_name("b.safetensors"))
        assert len({first, second, digest(folder)}) == 3
