"""The landscapes: 256 px pictures and captions are frozen, wider ones keep the rules, edits touch one thing."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit.errors import InputError
from sparsedit.suites.item import EDIT_TYPES
from sparsedit.suites.scenes.caption import caption
from sparsedit.suites.scenes.edits import EDITS, FIRST_TEST_SEED, edit_pair, edit_scene
from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import Scene, sample_scene

# Pictures, sketches and captions of the set that the demo model was trained on. Elsewhere vector units round
# one value in a million to the other side; these seeds came out equal with and without AVX2 and AVX-512.
FROZEN = [
    (
        1,
        "4d0dddd3579b4366",
        "91b0351acc8a16a1",
        "a red house with a green roof in the middle and pine trees near a lake in a green meadow with hills at "
        "night, a cloudy sky and the moon",
    ),
    (
        2,
        "5ac618c7a1eaa395",
        "f62a879f79f5581b",
        "a white house with a purple roof, pine trees and a boat with a blue sail near a lake in a meadow below "
        "snowy mountains by day",
    ),
    (
        5,
        "2576404c47ce21e1",
        "e74383db9def4260",
        "a river in a green meadow with rocky mountains with a clear sky and the sun",
    ),
    (
        8,
        "f2c233fa61db3d37",
        "f5be32f3db94aa51",
        "pine trees in a meadow under rocky mountains at sunset, the sun",
    ),
    (
        9,
        "f35ebe4943ea9928",
        "2aef9a1a3e789a0a",
        "a painting of a pink house with a gray roof by a river in a meadow under rocky mountains at night",
    ),
    (
        13,
        "ffad0923aee94e99",
        "12718818b668a66b",
        "a red house with a gray roof on the right on a grass field with rocky mountains at noon, clouds and the sun",
    ),
    (
        17,
        "c9fa9b18d3dc9d3a",
        "f7c188f6cb8af2cd",
        "leafy trees and a boat with a white sail by a lake in the snow at night",
    ),
]

seeds = st.integers(0, 1 << 31)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("seed", "picture", "sketch", "words"), FROZEN)
def test_pictures_of_the_training_set_are_frozen(seed: int, picture: str, sketch: str, words: str) -> None:
    scene = sample_scene(seed)
    assert digest(render(scene)) == picture
    assert digest(render(scene, flat=True)) == sketch
    assert caption(scene, seed) == words


def test_edit_pairs_are_frozen() -> None:
    pair = edit_pair(7)
    assert pair.kind == "remove_boat"
    assert pair.source_prompt == (
        "orange trees and a boat with a white sail near a lake on a grass field at noon with the sun"
    )
    assert pair.target_prompt == "orange trees near a lake on a grass field at noon with the sun"
    arrays = (pair.source_picture, pair.target_picture, pair.mask, pair.target_sketch)
    assert [digest(array) for array in arrays] == [
        "ece8eae66a6932fa",
        "79ae76373fb190de",
        "8bef9c020760b6fb",
        "47409b909722caae",
    ]


@pytest.mark.parametrize("width", [264, 512, 520, 1024])
@pytest.mark.parametrize("flat", [False, True])
def test_wider_pictures(width: int, flat: bool) -> None:
    for seed in range(3):
        picture = render(sample_scene(seed, width), flat=flat)
        assert picture.shape == (256, width, 3)
        assert picture.dtype == np.uint8


@pytest.mark.parametrize("width", [0, 248, 260, 513])
def test_other_widths_are_refused(width: int) -> None:
    with pytest.raises(InputError, match=f"cannot be {width} px wide: the width is a multiple of 8 from 256"):
        sample_scene(0, width)


def test_a_wide_scene_uses_its_width() -> None:
    scenes = [sample_scene(seed, 1024) for seed in range(200)]
    places = {
        "sun": [scene.body_x for scene in scenes],
        "water": [scene.water_x for scene in scenes],
        "house": [scene.house.x for scene in scenes if scene.house],
        "trees": [spot.x for scene in scenes for spot in scene.tree_spots],
    }
    for name, xs in places.items():
        assert np.ptp(xs) > 300, name
        assert min(xs) > 0, name
        assert max(xs) < 1024, name
        assert 400 < np.mean(xs) < 624, name
    base = np.mean([len(sample_scene(seed).tree_spots) for seed in range(200)])
    assert np.mean([len(scene.tree_spots) for scene in scenes]) > 3 * base


def test_peaks_do_not_rise_again_far_from_their_top() -> None:
    """A flank's formula turns upward 277 px from the peak; it must not fill a wide sky with rock."""
    scene = next(s for s in (sample_scene(seed, 1024) for seed in range(99)) if s.mountains == "rocky")
    bare = Scene(**{**vars(scene), "mountains": "none"})
    changed = (render(scene, flat=True) != render(bare, flat=True)).any(-1)
    top = int(scene.horizon) - 84 - 16 - 12
    assert changed.any()
    assert not changed[:top].any()


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_scenes_are_coherent(seed: int) -> None:
    scene = sample_scene(seed)
    assert scene == sample_scene(seed)
    assert scene.boat is None or scene.water == "lake"
    if scene.house is not None:
        assert scene.house.wall != scene.house.roof
        side = {"left": (40, 80), "center": (110, 146), "right": (176, 212)}[scene.house.position]
        assert side[0] < scene.house.x < side[1]
    assert caption(scene, seed, full=True) == caption(scene, seed, full=True)


@given(seeds, seeds)
@settings(max_examples=50, deadline=None)
def test_full_captions_name_what_is_there(seed: int, wording: int) -> None:
    scene = sample_scene(seed)
    text = caption(scene, wording, full=True)
    if scene.house is not None:
        assert f"a {scene.house.wall} house" in text
    else:
        assert "house" not in text
    assert (scene.water in text) == (scene.water != "none")
    assert ("tree" in text or "pines" in text) == (scene.trees != "none")
    assert ("boat" in text) == (scene.boat is not None)
    assert f"{scene.mountains} mountains" in text or scene.mountains == "none"


@pytest.mark.parametrize("kind", EDITS)
def test_edits_change_one_thing(kind: str) -> None:
    pair = edit_pair(3, kind)
    assert pair.kind == kind
    assert pair.source.seed == pair.target.seed >= FIRST_TEST_SEED
    fields = [name for name in vars(pair.source) if getattr(pair.source, name) != getattr(pair.target, name)]
    assert len(fields) == 1
    assert pair.source_prompt != pair.target_prompt or kind == "recolor_roof"
    assert EDITS[kind].edit_type in EDIT_TYPES
    outside = np.abs(pair.source_picture.astype(int) - pair.target_picture)[~pair.mask]
    assert (outside <= 10).all()
    assert 0 < pair.mask.mean() < (0.4 if EDITS[kind].local else 1.01)


def test_edits_of_wide_scenes() -> None:
    pair = edit_pair(0, "add_house", width=512)
    assert pair.source_picture.shape == pair.target_sketch.shape == (256, 512, 3)
    assert pair.mask.shape == (256, 512)


def test_an_edit_that_makes_no_sense_is_none() -> None:
    rng = np.random.default_rng(0)
    bare = next(scene for scene in map(sample_scene, range(99)) if scene.house is None)
    assert edit_scene(bare, "remove_house", rng) is None
    added = edit_scene(bare, "add_house", rng)
    assert added is not None
    assert added.house is not None
    assert edit_scene(added, "add_house", rng) is None


def test_an_unknown_edit_is_an_error() -> None:
    for ask in (lambda: edit_pair(0, "add_hous"), lambda: edit_pair(0, "dance")):
        with pytest.raises(InputError, match=r"There is no edit '(add_hous|dance)' of a landscape"):
            ask()
    with pytest.raises(InputError, match="did you mean 'add_house'"):
        edit_pair(0, "add_hous")
