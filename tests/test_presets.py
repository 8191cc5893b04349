"""Every preset is complete, and naming one costs nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from sparsedit.errors import ModelError
from sparsedit.models.presets import PRESETS, fetch_command, get_preset
from sparsedit.settings import resolve


def test_importing_presets_imports_no_torch():
    program = "import sys, sparsedit.models.presets; print([m for m in sys.modules if m in {'torch', 'diffusers'}])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_are_the_embedded_and_the_full_size_models():
    assert {"demo", "sdxl", "sdxl-refiner", "sdxl-turbo"} <= set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
class TestEveryPreset:
    def test_is_found_by_its_name(self, preset):
        assert get_preset(preset.name) is preset

    def test_has_weights_somewhere(self, preset):
        assert (preset.embedded_folder is None) != (preset.hub_id is None)
        assert (preset.fetch_command is None) == (preset.hub_id is None)

    def test_has_configuration_files_for_its_pipeline(self, preset):
        index = json.loads((preset.config_folder / "model_index.json").read_text())
        assert index["_class_name"] == preset.pipeline
        for part in ("unet", "vae", "text_encoder_2"):
            assert (preset.config_folder / part / "config.json").is_file()

    def test_has_sensible_settings_of_its_own(self, preset):
        settings = resolve(dict(preset.defaults))
        assert None not in (settings.steps, settings.strength, settings.guidance)
        assert int(settings.steps * settings.strength) >= 1

    def test_says_what_it_is(self, preset):
        assert preset.title
        assert preset.description
        assert preset.licence

    def test_cannot_be_changed(self, preset):
        with pytest.raises(dataclasses.FrozenInstanceError):
            preset.name = "other"


def test_demo_settings():
    assert get_preset("demo").defaults == {"steps": 20, "strength": 0.7, "guidance": 4.0}


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
    with pytest.raises(ModelError, match=r"unknown model 'sdlx'.*demo, sdxl.*did you mean 'sdxl'\?") as caught:
        get_preset("sdlx")
    assert "\n" not in str(caught.value)


def test_fetch_command():
    assert fetch_command("owner/name") == (
        'hf download owner/name --include "*.json" --include "*.txt" --include "*.safetensors"'
    )
    assert '--revision v1 --include "*.json"' in fetch_command("owner/name", "v1")
    assert '--include "*.fp16.safetensors"' in get_preset("sdxl").fetch_command
