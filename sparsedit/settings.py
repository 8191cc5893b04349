"""Settings of an edit: their names, types, ranges and defaults, and which of several sources wins.

The same keys serve in a manifest, in a configuration file and as flags, so they are described once, here.
Where a default depends on the model it is None, and the model's preset says it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparsedit.errors import SettingsError, sentences


@dataclasses.dataclass(frozen=True)
class MaskPolicy:
    """From an edit to the pixels that are computed again.

    `threshold`: smallest difference that counts, on values in [-1, 1]; `grow`: dilation in image pixels;
    `level_dilation`: further dilation at every resolution inside the model, in that resolution's pixels;
    `feather`: width in image pixels of the blend at the mask's inner border; `vae_margin`: by how many image pixels
    encoder and decoder reach further than the UNet.
    """

    threshold: float
    grow: int
    level_dilation: int
    feather: int
    vae_margin: int


# `tight` is enough for fidelity (5 px buy 8 dB over none, more per level buys nothing measurable; one latent of margin
# brings a thin decode from 40 to over 50 dB inside the mask);
# `published` is SIGE's, for rows that are to be compared with its tables.
POLICIES = {
    "tight": MaskPolicy(threshold=0.02, grow=5, level_dilation=0, feather=0, vae_margin=8),
    "published": MaskPolicy(threshold=0.02, grow=5, level_dilation=1, feather=0, vae_margin=0),
}


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not {name!r}")
    return name


Pixels = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """How an edit is made. None means "not said": the preset's or the policy's value holds.

    `strength` is the share of the schedule that is run on the picture, `guidance` the scale of classifier-free
    guidance, `dense` whether the dense edit is run too, for the comparison. `context` says whether the original runs
    under its own prompt or the edit's: by default its own for sdedit, where its picture is kept outside the mask, and
    the edit's for inpaint, where the photo is. `norm` says whether group norms keep the original's statistics or follow
    the edit's. `threshold`, `grow`, `level_dilation`, `feather` and `vae_margin` override those of
    `policy` one by one (see `MaskPolicy`). `lora` and `vae` name what is loaded into the model and instead of its VAE.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    task: Literal["sdedit", "inpaint"] = "sdedit"
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    guidance: Annotated[float, Field(ge=0)] | None = None
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    way: Literal["alongside", "warm"] = "alongside"
    context: Literal["original", "self"] | None = None
    norm: Literal["original", "updated"] = "original"
    dense: bool = True
    policy: Literal["tight", "published"] = "tight"
    threshold: Annotated[float, Field(ge=0, lt=2)] | None = None
    grow: Pixels | None = None
    level_dilation: Pixels | None = None
    feather: Pixels | None = None
    vae_margin: Pixels | None = None
    device: Annotated[str, AfterValidator(_device)] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    weights: Literal["real", "random"] = "real"
    lora: str | None = None
    vae: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_the_unsaid(cls, data: object) -> object:
        """None means "not said" also where the default is not None."""
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None}

    @property
    def calls(self) -> int:
        """Denoising steps that really run; 0 where steps or strength are not said."""
        return effective_steps(self.steps or 0, self.strength or 0.0)

    def said(self) -> dict[str, Any]:
        """The settings that were given, without the defaults."""
        return self.model_dump(exclude_unset=True, include=set(Settings.model_fields))

    def mask_policy(self) -> MaskPolicy:
        """The named policy, with the settings that override it."""
        policy = POLICIES[self.policy]
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(policy)}
        return dataclasses.replace(policy, **{name: value for name, value in own.items() if value is not None})


def effective_steps(steps: int, strength: float) -> int:
    """How many of `steps` run at a `strength`, as diffusers' img2img pipelines count them."""
    return min(int(steps * strength), steps)


def resolve(preset_defaults: Mapping[str, Any], *layers: Mapping[str, Any]) -> Settings:
    """The settings that hold: each layer overrides those before it, and a value None overrides nothing.

    The order of layers is preset, manifest defaults, case, variant, configuration file, flags. Raises
    SettingsError that lists every fault of every layer, also of values that a later layer overrides.
    """
    said: dict[str, Any] = {}
    faults: list[str] = []
    for layer in (preset_defaults, *layers):
        try:
            said |= Settings.model_validate(dict(layer)).said()
        except ValidationError as error:
            faults += sentences(error, Settings)
    if faults:
        raise SettingsError("\n".join(dict.fromkeys(faults)))
    return Settings.model_validate(said)
