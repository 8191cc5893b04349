"""Named models: what each is, where its weights come from, and the settings that suit it.

One frozen record per model in one dictionary, so that a command can list or describe a model without importing
torch. A model needs no preset to be used: a hub id, a diffusers folder or a `.safetensors` file also names one.
"""

from __future__ import annotations

from sparsedit.errors import ModelError, did_you_mean
from sparsedit.models.presets.demo import DEMO, DEMO_REFINER, DEMO_TURBO_MODEL
from sparsedit.models.presets.preset import Part, Preset, Published, fetch_command
from sparsedit.models.presets.sdxl import (
    SDXL,
    SDXL_INPAINT,
    SDXL_LCM,
    SDXL_REFINER,
    SDXL_TURBO,
    SSD_1B,
    SSD_1B_LCM,
)
from sparsedit.models.presets.stable_diffusion import DDIM_CHURCH, SD15, SD21, SDXS_512

__all__ = ["PARTS", "PRESETS", "Part", "Preset", "Published", "fetch_command", "get_preset", "preset_and_file"]

_ALL = (
    DEMO,
    DEMO_TURBO_MODEL,
    DEMO_REFINER,
    SDXL,
    SDXL_LCM,
    SDXL_REFINER,
    SDXL_TURBO,
    SDXL_INPAINT,
    SSD_1B,
    SSD_1B_LCM,
    SD15,
    SD21,
    SDXS_512,
    DDIM_CHURCH,
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

PARTS: dict[str, Part] = {
    part.name: part
    for preset in _ALL
    for part in (*([preset.lora] if preset.lora else []), *preset.vaes.values(), *preset.controlnets.values())
}


def get_preset(name: str) -> Preset:
    """The preset called `name`; `ModelError` names the presets there are, and the nearest one."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ModelError(
            f"unknown model {name!r}: give a preset ({known}), a hub id (owner/name), a diffusers folder or a "
            f".safetensors file{did_you_mean(name, PRESETS)}"
        )
    return PRESETS[name]


def preset_and_file(name: str) -> tuple[Preset | None, str | None]:
    """What a model's name says: `sdxl` is a preset, `sdxl-turbo:FILE` a preset with its weights in a file of one's own.

    A name that is neither gives (None, None).
    """
    preset, colon, file = name.partition(":")
    return (PRESETS.get(preset), file or None) if preset in PRESETS and (file or not colon) else (None, None)
