"""The demo model's figures: what counts as right, and what is measured anew."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sparsedit.errors import InputError
from sparsedit.suites.scenes.render import render
from training import adherence, details, pace, reconstruction, score, sketches
from training.attributes import ATTRIBUTES, labels
from training.card import write_card
from training.grids import enlarge, grid
from training.probe import Probe
from training.score import Section, Subject, read_scores, run
from training.settings import DEMO, DetailWeights, PaceSettings, SampleSettings, SketchSettings

SCENES = adherence.held_out_scenes(60)
NAMES = list(ATTRIBUTES)


class Reader:
    """A probe that reads off every picture the true attributes, but for the one that it is told."""

    def __init__(self, attribute: str | None = None, shift: int = 0, fixed: int | None = None) -> None:
        self.attribute, self.shift, self.fixed = attribute, shift, fixed

    def read(self, images: torch.Tensor) -> torch.Tensor:
        values = torch.tensor([labels(scene) for scene in SCENES[: len(images)]])
        if self.attribute is not None:
            column = values[:, NAMES.index(self.attribute)]
            column[:] = (column + self.shift) % len(ATTRIBUTES[self.attribute]) if self.fixed is None else self.fixed
        return values


@pytest.fixture(scope="module")
def blank():
    """A picture for each scene; the readers above do not look at them."""
    return np.zeros((len(SCENES), 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def _no_rendering(monkeypatch, blank):
    monkeypatch.setattr(adherence, "render_scenes", lambda scenes: blank[: len(scenes)])


class TestAdherence:
    houses = sum(scene.house is not None for scene in SCENES)

    def test_all_right_is_all_right(self, blank):
        for name, groups in adherence.counts(Reader(), blank, SCENES).items():
            for group in groups.values():
                assert group["generated"] == group["rendered"] == group["count"], name
                assert group["majority"] <= group["count"]

    def test_a_house_that_is_missing_is_wrong_though_most_scenes_have_none(self, blank):
        none = len(ATTRIBUTES["house"]) - 1
        groups = adherence.counts(Reader("house", fixed=none), blank, SCENES)["house"]
        assert groups["named"]["count"] == self.houses
        assert groups["named"]["generated"] == 0
        assert groups["all"]["generated"] == len(SCENES) - self.houses

    def test_a_house_on_the_wrong_side_is_wrong(self, blank):
        left = adherence.counts(Reader("house", fixed=0), blank, SCENES)["house"]["named"]
        assert left["generated"] == sum(scene.house is not None and scene.house.position == "left" for scene in SCENES)
        assert adherence.counts(Reader("house", shift=1), blank, SCENES)["house"]["named"]["generated"] == 0

    def test_prompts_are_cut_into_batches_without_changing_their_noise(self):
        def pipe(prompts, generator, **_):
            images = [np.full((2, 2, 3), float(torch.rand(1, generator=one))) for one in generator]
            return SimpleNamespace(images=np.stack(images))

        settings = SampleSettings(prompts=5, batch=5)
        whole, cut = (adherence.sample(pipe, ["x"] * 5, replace(settings, batch=batch)) for batch in (5, 2))
        assert np.array_equal(whole, cut)
        assert len(np.unique(whole)) == 5


class TestReconstruction:
    def test_contrast_kept_is_1_as_rendered_and_falls_with_blur_alone(self):
        rng = np.random.default_rng(0)
        true = np.full((1, 64, 64, 3), 40, np.uint8)
        true[0, rng.integers(64, size=20), rng.integers(64, size=20)] = 240
        blurred = np.stack([gaussian_filter(picture.astype(float), (1.5, 1.5, 0)) for picture in true])
        noisy = np.clip(true + rng.normal(0, 20, true.shape), 0, 255)
        box = [(slice(0, 64), slice(0, 64))]
        kept = [reconstruction.contrast_kept(made, true, box) for made in (true, blurred, noisy)]
        assert kept[0] == pytest.approx(1)
        assert kept[1] < 0.25
        assert kept[2] == pytest.approx(1, abs=0.15)
        assert reconstruction.contrast_kept(true, true, [None]) is None

    def test_boxes_hold_what_they_are_named_for(self):
        scenes = adherence.held_out_scenes(200)
        skies = [(scene, box) for scene in scenes if (box := details.star_box(scene))]
        assert skies
        assert all(scene.time == "night" and not scene.has_body and not scene.clouds for scene, _ in skies)
        assert all(0 < rows.stop < scene.horizon for scene, (rows, _) in skies)
        for scene in scenes:
            box = details.wall_box(scene)
            assert (box is None) == (scene.house is None)
            if box:
                assert box[0].stop <= 256
                assert box[1].start < scene.house.x < box[1].stop

    def test_stars_and_windows_weigh_more_and_nothing_else_does(self):
        scenes, weights = adherence.held_out_scenes(200), DetailWeights(stars=10, windows=4)
        night = next(scene for scene in scenes if details.star_box(scene) and scene.house is None)
        lived = next(scene for scene in scenes if scene.house is not None and scene.time == "day")
        bare = next(scene for scene in scenes if scene.house is None and scene.time == "day")
        sky = slice(0, int(night.horizon)), slice(0, night.width)
        for scene, box in ((night, sky), (lived, details.wall_box(lived))):
            picture = render(scene)
            found = details.detail_weights(scene, picture, weights)
            assert found.max() > 1
            assert np.median(found[box]) < 0.2
            found[box] = 0
            assert not found.any()
        assert not details.detail_weights(bare, render(bare), weights).any()

    def test_identical_pictures_have_an_ssim_and_no_psnr(self):
        picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        assert reconstruction.likeness(picture, picture) == (None, pytest.approx(1))


class TestSketches:
    def test_a_result_like_the_scene_is_closer_and_the_sketch_itself_is_not(self, monkeypatch):
        scenes = SCENES[:3]
        rng = np.random.default_rng(0)
        rendered = rng.integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
        drawn = (rendered // 2).astype(np.uint8)
        monkeypatch.setattr(sketches, "render_scenes", lambda scenes: rendered)
        monkeypatch.setattr(sketches, "draw_sketches", lambda scenes: drawn)
        good = sketches.scores(Reader(), np.maximum(rendered, 1), scenes)
        same = sketches.scores(Reader(), drawn, scenes)
        assert [good[name]["closer"] for name in ("ssim", "psnr")] == [3, 3]
        assert [same[name]["closer"] for name in ("ssim", "psnr")] == [0, 0]
        assert good["probe"]["closer"] == good["probe"]["farther"] == 0
        assert good["probe"]["result"] == good["probe"]["attributes"] == 3 * len(ATTRIBUTES)


class TestPace:
    def test_warm_up_is_run_and_not_counted(self):
        times = iter(range(0, 100, 1))
        calls = []
        result = pace.measure(
            lambda prompt, **options: calls.append(options["num_inference_steps"]),
            PaceSettings(pictures=3, warm_up=2, steps=20),
            now=lambda: float(next(times)) ** 2,
        )
        assert calls == [20] * 5
        assert result["seconds"] == [9.0, 13.0, 17.0]
        assert len(result["load_averages"]) == 3


class TestGrids:
    def test_pictures_lie_in_rows(self):
        shown = grid([np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3)], 2)
        assert shown.shape == (4, 6, 3)
        assert [shown[0, 0, 0], shown[0, 5, 0], shown[3, 0, 0], shown[3, 5, 0]] == [1, 2, 3, 255]
        assert enlarge(shown, 2).shape == (8, 12, 3)


@dataclass(frozen=True)
class ToySettings:
    pictures: int = 3


def subject(folder: Path) -> Subject:
    return Subject(DEMO, None, torch.device("cpu"), folder / "pictures")


class TestRun:
    @pytest.fixture
    def sections(self, tmp_path):
        """Two sections that count how often they are measured."""
        (tmp_path / "weights").write_text("first")
        measured: list[str] = []

        def measure(name):
            def measured_once(subject, settings):
                measured.append(name)
                return {"pictures": settings.pictures}

            return measured_once

        return measured, {
            name: Section(ToySettings(), measure(name), (tmp_path / "weights",)) for name in ("one", "two")
        }

    def test_what_is_there_is_kept_until_settings_or_files_change(self, sections, tmp_path):
        measured, chosen = sections
        output = tmp_path / "score.json"
        for _ in range(2):
            run(chosen, subject(tmp_path), output, again=False)
        assert measured == ["one", "two"]
        run({"one": chosen["one"]}, subject(tmp_path), output, again=True)
        assert measured[2:] == ["one"]
        run({"one": replace(chosen["one"], settings=ToySettings(4))}, subject(tmp_path), output, again=False)
        assert read_scores(output)["one"]["result"] == {"pictures": 4}
        (tmp_path / "weights").write_text("other")
        run({"two": chosen["two"]}, subject(tmp_path), output, again=False)
        assert measured[3:] == ["one", "two"]

    def test_a_section_that_fails_leaves_those_before_it(self, sections, tmp_path):
        measured, chosen = sections
        output = tmp_path / "score.json"

        def fail(subject, settings):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(chosen | {"two": replace(chosen["two"], measure=fail)}, subject(tmp_path), output, again=False)
        assert list(read_scores(output)) == ["one"]
        run(chosen, subject(tmp_path), output, again=False)
        assert measured == ["one", "two"]

    def test_without_its_files_a_section_is_told_and_left_out(self, sections, tmp_path, capsys):
        _, chosen = sections
        lacking = replace(chosen["one"], reads=(tmp_path / "none",))
        run({"one": lacking}, subject(tmp_path), tmp_path / "score.json", again=False)
        assert "one: not measured, for there is no" in capsys.readouterr().err
        assert not (tmp_path / "score.json").exists()

    def test_a_file_of_something_else_is_refused(self, tmp_path):
        for text in ("{", "[]", '{"one": 3}'):
            (tmp_path / "score.json").write_text(text)
            with pytest.raises(InputError, match="delete it to measure anew"):
                read_scores(tmp_path / "score.json")

    def test_every_section_names_its_settings_and_files(self):
        for name, section in score.sections(DEMO, None).items():
            assert section.reads, name
            assert next(iter(asdict(section.settings))) in ("pictures", "prompts", "sketches"), name

    def test_the_real_sections_run_from_pipeline_to_card(self, tmp_path, monkeypatch):
        """Few pictures, few steps and a probe that learnt nothing: what is tested is the way, not the figures."""
        monkeypatch.undo()
        torch.manual_seed(0)
        probe = tmp_path / "probe.pt"
        probe.touch()
        monkeypatch.setattr(score, "load_probe", lambda: Probe().eval())
        monkeypatch.setattr(score, "PROBE_WEIGHTS", probe)
        offered = score.sections(DEMO, None)
        small = {
            "time": PaceSettings(pictures=1, warm_up=0, steps=1),
            "text-to-image": SampleSettings(prompts=2, steps=1),
            "sketches": SketchSettings(sketches=2, strengths=(0.5,), steps=2),
        }
        chosen = {name: replace(offered[name], settings=settings) for name, settings in small.items()}
        run(chosen, subject(tmp_path), tmp_path / "score.json", again=False)
        assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
            "text-to-image.png",
            "wide.png",
            "sketches.png",
        }
        write_card(tmp_path / "card.md", tmp_path, tmp_path / "pictures", tmp_path / "score.json")
        text = (tmp_path / "card.md").read_text()
        assert "2 held-out prompts in full wording, 1 steps" in text
        assert "![sketches](pictures/sketches.png)" in text
        assert "Out of date" not in text
