"""Every preset is complete, and naming one costs nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from sparsedit.errors import ModelError
from sparsedit.models.presets import PARTS, PRESETS, fetch_command, get_preset, preset_and_file
from sparsedit.settings import resolve


def test_importing_presets_imports_no_torch():
    program = "import sys, sparsedit.models.presets; print([m for m in sys.modules if m in {'torch', 'diffusers'}])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_are_the_models_of_the_field():
    assert set(PRESETS) == {
        "demo", "demo-turbo", "demo-refiner", "sdxl", "sdxl-lcm", "sdxl-refiner", "sdxl-turbo", "sdxl-inpaint",
        "ssd-1b", "ssd-1b-lcm", "sd15", "sd21", "sdxs-512", "ddim-church",
    }  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
class TestEveryPreset:
    def test_is_found_by_its_name(self, preset):
        assert get_preset(preset.name) is preset

    def test_has_weights_somewhere(self, preset):
        assert (preset.embedded_folder is None) != (preset.hub_id is None)
        assert (preset.fetch_command is None) == (preset.hub_id is None)

    def test_has_an_index_for_its_pipeline(self, preset):
        index = next(
            folder / "model_index.json" for folder in preset.folders if (folder / "model_index.json").is_file()
        )
        assert json.loads(index.read_text())["_class_name"] == preset.pipeline

    def test_is_pinned_to_commits(self, preset):
        assert preset.revision is None or re.fullmatch("[0-9a-f]{40}", preset.revision)

    def test_has_sensible_settings_of_its_own(self, preset):
        settings = resolve(dict(preset.defaults))
        assert None not in (settings.steps, settings.strength, settings.guidance)
        assert int(settings.steps * settings.strength) >= 1

    def test_says_what_it_is(self, preset):
        assert preset.title
        assert preset.description
        assert preset.good_for
        assert preset.licence

    def test_cannot_be_changed(self, preset):
        with pytest.raises(dataclasses.FrozenInstanceError):
            preset.name = "other"


def test_demo_settings():
    assert get_preset("demo").defaults == {"steps": 20, "strength": 0.7, "guidance": 4.0, "policy": "close"}


def test_the_embedded_model_is_data_only():
    kinds = {path.suffix for path in get_preset("demo").embedded_folder.rglob("*") if path.is_file()}
    assert kinds == {".json", ".txt", ".safetensors"}


def test_turbo_has_the_architecture_of_sdxl():
    sdxl, turbo = (
        json.loads((get_preset(name).config_folder / "unet" / "config.json").read_text())
        for name in ("sdxl", "sdxl-turbo")
    )
    assert {key for key in sdxl if sdxl[key] != turbo[key]} == {"sample_size"}


def test_an_unknown_name_gets_one_sentence():
    with pytest.raises(ModelError, match=r"unknown model 'sdlx'.*demo, .*sdxl.*did you mean 'sdxl'\?") as caught:
        get_preset("sdlx")
    assert "\n" not in str(caught.value)


def test_fetch_command():
    assert fetch_command("owner/name") == "sparsedit models pull owner/name"
    assert get_preset("sdxl").fetch_command == "sparsedit models pull sdxl"


@pytest.mark.parametrize("part", PARTS.values(), ids=lambda part: part.name)
class TestEveryPart:
    def test_has_weights_somewhere(self, part):
        assert (part.embedded is None) != (part.hub_id is None)

    def test_has_a_configuration_unless_it_is_a_lora_or_embedded(self, part):
        assert part.file or part.embedded or (part.config_folder / "config.json").is_file()

    def test_says_what_it_is(self, part):
        assert part.title
        assert part.licence


def test_every_part_has_a_name_of_its_own():
    parts = [
        part
        for preset in PRESETS.values()
        for part in (preset.lora, *preset.vaes.values(), *preset.controlnets.values())
        if part
    ]
    assert all(PARTS[part.name] == part for part in parts)
    assert not PARTS.keys() & PRESETS.keys() - {"demo-turbo"}


@pytest.mark.parametrize(
    ("name", "preset", "file"),
    [
        ("sdxl", "sdxl", None),
        ("sdxl-turbo:weights/turbo.safetensors", "sdxl-turbo", "weights/turbo.safetensors"),
        ("sdxl:", None, None),
        ("C:/weights/sdxl.safetensors", None, None),
        ("./sdxl", None, None),
    ],
)
def test_a_name_may_give_a_preset_its_file(name, preset, file):
    assert preset_and_file(name) == (PRESETS.get(preset), file)
