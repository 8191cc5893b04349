"""Settings: which layer wins, what is refused and in which words, and the mask policies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedit.errors import SettingsError, SparseditError, ThresholdError, did_you_mean
from sparsedit.settings import FOLLOWING, FROM_NOISE, POLICIES, MaskPolicy, Settings, resolve


def refusal(**said: object) -> str:
    with pytest.raises(SettingsError) as caught:
        resolve({}, said)
    return str(caught.value)


def test_defaults() -> None:
    settings = resolve({})
    assert settings == Settings()
    assert (settings.task, settings.way, settings.policy, settings.seed) == (
        "sdedit",
        "alongside",
        "tight",
        0,
    )
    assert (settings.steps, settings.strength, settings.guidance) == (None, None, None)
    assert settings.dense is True


def test_later_layers_win() -> None:
    settings = resolve({"steps": 20, "guidance": 5.0}, {"steps": 30, "seed": 1}, {"steps": 40})
    assert (settings.steps, settings.guidance, settings.seed) == (40, 5.0, 1)


def test_a_later_layer_can_return_to_the_default() -> None:
    assert resolve({}, {"task": "inpaint", "seed": 3}, {"task": "sdedit", "seed": 0}) == resolve({})


def test_none_means_not_said() -> None:
    settings = resolve({"steps": 20}, {"steps": None, "seed": None, "task": None})
    assert (settings.steps, settings.seed, settings.task) == (20, 0, "sdedit")
    assert settings.said() == {"steps": 20}


layer = st.fixed_dictionaries(
    {}, optional={"steps": st.none() | st.integers(1, 1000), "seed": st.none() | st.integers(0, 9)}
)


@given(st.lists(layer, max_size=5))
def test_the_last_layer_that_says_a_value_decides(layers: list[dict[str, int | None]]) -> None:
    expected: dict[str, int | None] = {"steps": None, "seed": 0}
    for said in layers:
        expected |= {key: value for key, value in said.items() if value is not None}
    settings = resolve({}, *layers)
    assert {"steps": settings.steps, "seed": settings.seed} == expected


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"step": 3}, "step: unknown key; did you mean 'steps'?"),
        ({"steps": "x"}, "steps: must be a whole number, not 'x'"),
        ({"steps": 2.5}, "steps: must be a whole number, not 2.5"),
        ({"steps": True}, "steps: must be a whole number, not true"),
        ({"steps": 0}, "steps: must be at least 1, not 0"),
        ({"steps": 1001}, "steps: must be at most 1000, not 1001"),
        ({"strength": 0}, "strength: must be more than 0, not 0"),
        ({"strength": 1.5}, "strength: must be at most 1, not 1.5"),
        ({"strength": "half"}, "strength: must be a number, not 'half'"),
        ({"guidance": float("nan")}, "guidance: must be a finite number, not nan"),
        ({"guidance": float("inf")}, "guidance: must be a finite number, not inf"),
        ({"dense": "no"}, "dense: must be true or false, not 'no'"),
        (
            {"task": "outpaint"},
            "task: must be 'sdedit', 'inpaint', 'prompt', 'control', 'rotate' or 'pan', not 'outpaint'",
        ),
        ({"way": 3}, "way: must be 'alongside', 'warm' or 'cold', not 3"),
        ({"negative_prompt": 7}, "negative_prompt: must be text, not 7; put it in quotes"),
        ({"negative_prompt": False}, "negative_prompt: must be text, not false; put it in quotes"),
        ({"device": "gpu"}, "device: must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not 'gpu'"),
        ({"device": "cuda:"}, "device: must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not 'cuda:'"),
        ({"device": "cpu\n"}, "device: must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not 'cpu\\n'"),
        ({"seed": -1}, "seed: must be at least 0, not -1"),
        ({"seed": 2**32}, "seed: must be less than 4294967296, not 4294967296"),
        ({"grow": -1}, "grow: must be at least 0, not -1"),
        ({"threshold": 2.0}, "threshold: must be less than 2, not 2.0"),
    ],
)
def test_a_bad_value_is_one_sentence(said: dict[str, object], sentence: str) -> None:
    assert refusal(**said) == sentence


def test_an_unknown_key_without_a_neighbour_lists_the_known_ones() -> None:
    assert refusal(zzz=1).startswith("zzz: unknown key; known here: task, steps, strength,")


def test_every_fault_of_every_layer_is_listed_once() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({"steps": 0}, {"sed": 1, "steps": 0}, {"steps": 5, "dtype": "fp16"})
    assert str(caught.value).splitlines() == [
        "steps: must be at least 1, not 0",
        "sed: unknown key; did you mean 'seed'?",
        "dtype: must be 'auto', 'float32', 'bfloat16' or 'float16', not 'fp16'",
    ]


def test_a_long_value_is_cut() -> None:
    assert len(refusal(steps="9" * 10_000)) < 300
    assert len(refusal(**{"k" * 10_000: 1})) < 700


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices(device: str) -> None:
    assert resolve({}, {"device": device}).device == device


def test_whole_numbers_serve_as_numbers() -> None:
    assert resolve({}, {"guidance": 5}).guidance == 5.0


def test_mask_policies() -> None:
    assert resolve({}).mask_policy() == POLICIES["tight"] == MaskPolicy(0.02, 5, 0, None, 8)
    assert resolve({}, {"policy": "close"}).mask_policy() == MaskPolicy(0.02, 8, 0, None, 8)
    assert resolve({}, {"policy": "wide"}).mask_policy() == MaskPolicy(0.02, 24, 0, None, 8)
    assert resolve({}, {"policy": "published"}).mask_policy() == MaskPolicy(0.02, 5, 1, None, 0)


def test_a_derived_mask_is_blended_over_its_margin_and_at_most_over_one_latent() -> None:
    widths = {name: policy.blend_width(drawn=False) for name, policy in POLICIES.items()}
    assert widths == {"tight": 5, "close": 8, "wide": 8, "published": 5}
    assert all(policy.blend_width(drawn=True) == 0 for policy in POLICIES.values())
    told = resolve({}, {"policy": "wide", "feather": 20}).mask_policy()
    assert [told.blend_width(drawn=drawn) for drawn in (False, True)] == [20, 20]


def test_single_settings_override_the_policy_also_with_zero() -> None:
    said = {"policy": "published", "grow": 0, "threshold": 0.0, "feather": 3}
    assert resolve({}, said).mask_policy() == MaskPolicy(0.0, 0, 1, 3, 0)


@pytest.mark.parametrize("task", FROM_NOISE)
def test_what_begins_with_noise_runs_its_whole_schedule(task: str) -> None:
    preset = {"strength": 0.5}
    assert resolve(preset, {"task": task}).strength == 1.0
    assert resolve(preset, {"task": task}, {"strength": 0.8}).strength == 0.8
    assert resolve(preset, {"task": "inpaint"}).strength == 0.5


@pytest.mark.parametrize("task", FROM_NOISE)
def test_what_begins_with_noise_has_a_preset_s_policy_only_where_it_is_said(task: str) -> None:
    preset = {"policy": "close"}
    assert resolve(preset, {"task": task}).policy == "tight"
    assert resolve(preset, {"task": task, "policy": "close"}).policy == "close"
    assert resolve(preset, {"task": task}, {"policy": "published"}).policy == "published"
    assert resolve(preset, {"task": "inpaint"}).policy == "close"
    assert resolve(preset, {}, {"policy": "tight"}).policy == "tight"


def test_a_series_reaches_wide_unless_it_is_told_otherwise() -> None:
    preset = {"policy": "close"}
    assert resolve(preset, series=True).policy == resolve({}, series=True).policy == "wide"
    assert resolve(preset).policy == "close"
    assert resolve(preset, {"policy": "close"}, series=True).policy == "close"
    assert resolve(preset, {"task": "inpaint"}, series=True).policy == "close"
    assert resolve(preset, {"task": "pan"}, series=True).policy == "tight"


@pytest.mark.parametrize("task", FOLLOWING)
def test_what_follows_its_original_records_it_first(task: str) -> None:
    assert resolve({}, {"task": task}).way == "warm"
    assert resolve({}, {"task": task}, {"way": "cold"}).way == "cold"  # for the plan of the jobs to refuse


def test_a_size_is_width_and_height() -> None:
    assert resolve({}, {"size": "512x256"}).picture_size == (512, 256)
    assert "must be width x height" in refusal(size="512")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 1


def test_did_you_mean() -> None:
    assert did_you_mean("promt", ["prompt", "id"]) == "; did you mean 'prompt'?"
    assert did_you_mean("xyz", ["prompt", "id"]) == ""


def test_exit_codes() -> None:
    assert (SparseditError.exit_code, SettingsError.exit_code, ThresholdError.exit_code) == (2, 2, 3)


@pytest.mark.parametrize(
    ("said", "series", "norm"),
    [
        ({}, False, "original"),
        ({"task": "inpaint"}, False, "updated"),
        ({"task": "inpaint", "norm": "original"}, False, "original"),
        ({"way": "warm"}, True, "updated"),
        ({"way": "warm", "norm": "original"}, True, "original"),
        ({"task": "pan"}, True, "original"),
        ({"policy": "wide"}, False, "updated"),
        ({"policy": "wide", "norm": "original"}, False, "original"),
        ({"policy": "wide", "task": "prompt"}, False, "original"),
        ({"policy": "wide", "way": "cold"}, False, "original"),
        ({"policy": "wide", "coarse": 4}, False, "original"),
        ({"policy": "wide", "task": "pan"}, True, "original"),
    ],
)
def test_norms_follow_an_edit_that_fills_a_hole_is_of_a_series_or_reaches_wide(
    said: dict[str, str], series: bool, norm: str
) -> None:
    assert resolve({}, said, series=series).norm == norm
