"""Named models: what each is, where its weights come from, and the settings that suit it.

One frozen record per model in one dictionary, so that a command can list or describe a model without
importing torch. Loading is `loading.py`'s; a model needs no preset to be used (a hub id or a diffusers
folder also names one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsedit.errors import ModelError, did_you_mean

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """One named model.

    `pipeline` is the diffusers class, `native_size` the side in pixels the model was trained at, `defaults`
    the settings used where neither manifest nor flags say otherwise, `tasks` the tasks it can run,
    `variant` the weight files' variant on the hub. `embedded` names the folder beside this file that holds
    the model with its weights; for a preset without one, `configs/<name>` holds its architecture's JSON files.
    """

    name: str
    title: str
    description: str
    family: str
    pipeline: str
    licence: str
    native_size: int
    defaults: Mapping[str, int | float] = field(hash=False)
    tasks: tuple[str, ...] = ("sdedit", "inpaint")
    hub_id: str | None = None
    revision: str | None = None
    variant: str | None = None
    embedded: str | None = None

    @property
    def embedded_folder(self) -> Path | None:
        """The diffusers folder inside this package that holds weights, if there is one."""
        return None if self.embedded is None else _HERE / self.embedded

    @property
    def config_folder(self) -> Path:
        """A diffusers folder with at least the configuration files: what random weights are made from."""
        return _HERE / "configs" / self.name if self.embedded is None else _HERE / self.embedded

    @property
    def fetch_command(self) -> str | None:
        """The shell command that downloads exactly the files `load_pipeline` reads; `None` when embedded."""
        return None if self.hub_id is None else fetch_command(self.hub_id, self.revision, self.variant)


def fetch_command(hub_id: str, revision: str | None = None, variant: str | None = None) -> str:
    """The shell command that downloads the safetensors weights of `hub_id` into the local cache."""
    weights = f"*.{variant}.safetensors" if variant else "*.safetensors"
    pinned = f" --revision {revision}" if revision else ""
    return f'hf download {hub_id}{pinned} --include "*.json" --include "*.txt" --include "{weights}"'


def get_preset(name: str) -> Preset:
    """The preset called `name`; `ModelError` names the presets there are, and the nearest one."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ModelError(
            f"unknown model {name!r}: give a preset ({known}), a hub id (owner/name) or a diffusers folder"
            + did_you_mean(name, PRESETS)
        )
    return PRESETS[name]


_ALL = (
    Preset(
        name="demo",
        title="Demo landscapes",
        description="SDXL's architecture with a 10 M parameter UNet, trained on drawn landscapes; embedded",
        family="sdxl",
        pipeline="StableDiffusionXLPipeline",
        licence="Apache-2.0",
        native_size=256,
        defaults={"steps": 20, "strength": 0.7, "guidance": 4.0},
        embedded="demo",
    ),
    Preset(
        name="sdxl",
        title="Stable Diffusion XL base 1.0",
        description="2.6 B parameter UNet, two text encoders, 1024 px",
        family="sdxl",
        pipeline="StableDiffusionXLPipeline",
        licence="CreativeML Open RAIL++-M",
        native_size=1024,
        defaults={"steps": 30, "strength": 0.7, "guidance": 5.0},
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        variant="fp16",
    ),
    Preset(
        name="sdxl-refiner",
        title="Stable Diffusion XL refiner 1.0",
        description="2.3 B parameter UNet of four levels for low noise, one text encoder, 1024 px",
        family="sdxl",
        pipeline="StableDiffusionXLImg2ImgPipeline",
        licence="CreativeML Open RAIL++-M",
        native_size=1024,
        defaults={"steps": 30, "strength": 0.3, "guidance": 5.0},
        hub_id="stabilityai/stable-diffusion-xl-refiner-1.0",
        variant="fp16",
    ),
    Preset(
        name="sdxl-turbo",
        title="SDXL-Turbo",
        description="SDXL distilled to 1-4 steps without guidance, 512 px",
        family="sdxl",
        pipeline="StableDiffusionXLPipeline",
        licence="Stability AI non-commercial community licence (sai-nc-community)",
        native_size=512,
        defaults={"steps": 4, "strength": 0.5, "guidance": 0.0},
        hub_id="stabilityai/sdxl-turbo",
        variant="fp16",
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
