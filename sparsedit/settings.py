"""Settings of an edit: their names, types, ranges and defaults, and which of several sources wins.

The same keys serve in a manifest, in a configuration file and as flags, so they are described once, here.
Where a default depends on the model it is None, and the model's preset says it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sparsedit.errors import SettingsError, sentences, shown

WIDEST_BLEND = 8
"""Image pixels over which the border of a mask is no longer seen."""


@dataclasses.dataclass(frozen=True)
class MaskPolicy:
    """From an edit to the pixels that are computed again.

    `threshold`: smallest difference that counts, on values in [-1, 1]; `grow`: dilation in image pixels;
    `level_dilation`: further dilation at every resolution inside the model, in that resolution's pixels;
    `feather`: width in image pixels of the blend at the mask's inner border, None for `blend_width`'s choice;
    `vae_margin`: by how many image pixels encoder and decoder reach further than the UNet.
    """

    threshold: float
    grow: int
    level_dilation: int
    feather: int | None
    vae_margin: int

    def blend_width(self, *, drawn: bool) -> int:
        """Width of the blend for a mask that the user drew, or one that was derived.

        A derived mask has a margin of `grow` pixels: blended over that, at most over `WIDEST_BLEND`, its border is not
        seen and no edited pixel is touched. In a drawn mask nothing of what was there before shall show.
        """
        if self.feather is not None:
            return self.feather
        return 0 if drawn else min(self.grow, WIDEST_BLEND)


# `tight` computes least (one latent of margin brings a thin decode from 40 to over 50 dB inside the mask);
# `close` grows an edit by one latent cell: for the demo model 2 dB more, a seventh more work (docs/decisions.md);
# `wide` takes in three cells, and norms follow the edit unless told otherwise: 6 dB more inside and 4 dB more of the
# whole picture than `close`, at two thirds of its speed;
# `published` is SIGE's, for rows that are to be compared with its tables.
POLICIES = {
    "tight": MaskPolicy(threshold=0.02, grow=5, level_dilation=0, feather=None, vae_margin=8),
    "close": MaskPolicy(threshold=0.02, grow=8, level_dilation=0, feather=None, vae_margin=8),
    "wide": MaskPolicy(threshold=0.02, grow=24, level_dilation=0, feather=None, vae_margin=8),
    "published": MaskPolicy(threshold=0.02, grow=5, level_dilation=1, feather=None, vae_margin=0),
}


TASKS = ("sdedit", "inpaint", "prompt", "control", "rotate", "pan")
FOLLOWING = ("prompt", "rotate", "pan")
"""Tasks whose edits read the run of their original step by step, so that it is recorded first: way warm."""
MOVING = ("rotate", "pan")
"""Tasks whose canvas moves."""
FROM_NOISE = (*FOLLOWING, "control")
"""Tasks that run their whole schedule where no strength is said."""


_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _budget(size: str) -> str:
    if not re.fullmatch(rf"\d+(\.\d+)? ?({'|'.join(_UNITS)})", size):
        raise ValueError(f"must be a number of {', '.join(_UNITS)}, as in 8GB, not {size!r}")
    return size


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not {name!r}")
    return name


def _size(size: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
        raise ValueError(f"must be width x height in pixels, as in 512x512, not {size!r}")
    return size


def _coarse(count: object) -> object:
    if count is None or count == "auto" or (type(count) is int and count >= 2):
        return count
    raise ValueError(f"must be a whole number from 2 on or 'auto', not {shown(count)}")


Pixels = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """How an edit is made. None means "not said": the preset's or the policy's value holds.

    `strength` is the share of the schedule that is run on the picture, `guidance` the scale of classifier-free
    guidance, `dense` whether the dense edit is run too, for the comparison. `context` says whether the original runs
    under its own prompt or the edit's: by default its own for sdedit, where its picture is kept outside the mask, and
    the edit's for inpaint, where the photo is. `norm` says whether group norms keep the original's statistics or follow
    the edit's: where nothing is said they follow it for inpaint, in series and for sdedit with policy wide, unless
    it runs cold. `threshold`, `grow`, `level_dilation`, `feather` and `vae_margin` override those of `policy` one by
    one (see `MaskPolicy`).
    `lora` and `vae` name what is loaded into the model and instead of its VAE,
    `controlnet` what shows the edges of the picture to the UNet, `control_scale` saying how much that counts, and
    `refiner` the model that goes on from the base at `refine_from` of the way from noise to picture.
    `coarse` is how many steps a cold edit makes densely, `record_steps` how many of an original's are recorded for warm
    ones; `fidelity` asks for a PSNR in dB against the dense edit instead, as does `coarse: auto`. Where no way is said,
    `coarse` means `way: cold` and `record_steps` `way: warm`.
    Task prompt: `size` is that of an original made from noise, `capture_steps` how many dense
    steps find an edit's mask, `mask_from` whether these are spread over the schedule, others being left out (where
    nothing is said and every step was recorded), or the edit's first steps, none being left out, `last_dense` how many
    at its end are dense again. Task control:
    `control_from` says whether the pictures are photos, whose edges are shown to the ControlNet, or what it is shown
    themselves.
    `cache` is a folder for recordings, `cache_budget` the most they may take in memory, `cache_precision` and
    `cache_rows` what is kept of them; each of the four means `way: warm` where no way is said.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    task: Literal["sdedit", "inpaint", "prompt", "control", "rotate", "pan"] = "sdedit"
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    guidance: Annotated[float, Field(ge=0)] | None = None
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    way: Literal["alongside", "warm", "cold"] = "alongside"
    coarse: Annotated[int | Literal["auto"] | None, BeforeValidator(_coarse)] = None
    record_steps: Annotated[int, Field(ge=2)] | None = None
    fidelity: Annotated[float, Field(gt=0)] | None = None
    context: Literal["original", "self"] | None = None
    size: Annotated[str, AfterValidator(_size)] | None = None
    capture_steps: Annotated[int, Field(ge=1)] | None = None
    last_dense: Annotated[int, Field(ge=0)] = 0
    mask_from: Literal["spread", "latents", "attention"] | None = None
    control_from: Literal["photo", "map"] = "photo"
    norm: Literal["original", "updated"] = "original"
    dense: bool = True
    policy: Literal["tight", "close", "wide", "published"] = "tight"
    threshold: Annotated[float, Field(ge=0, lt=2)] | None = None
    grow: Pixels | None = None
    level_dilation: Pixels | None = None
    feather: Pixels | None = None
    vae_margin: Pixels | None = None
    device: Annotated[str, AfterValidator(_device)] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    weights: Literal["real", "random"] = "real"
    offload: Literal["none", "model", "sequential", "auto"] = "none"
    lora: str | None = None
    vae: str | None = None
    scheduler: Literal["euler", "euler-a", "dpm++-2m", "ddim", "lcm"] | None = None
    controlnet: str | None = None
    control_scale: Annotated[float, Field(gt=0, le=2)] = 0.5
    refiner: str | None = None
    refine_from: Annotated[float, Field(gt=0, lt=1)] = 0.8
    cache: str | None = None
    cache_budget: Annotated[str, AfterValidator(_budget)] | None = None
    cache_precision: Literal["native", "int8"] = "native"
    cache_rows: Literal["all", "halo"] = "all"

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

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """`size` as width and height."""
        if self.size is None:
            return None
        width, _, height = self.size.partition("x")
        return int(width), int(height)

    @property
    def budget_bytes(self) -> int | None:
        """`cache_budget` as a number."""
        if self.cache_budget is None:
            return None
        return int(float(self.cache_budget[:-2]) * _UNITS[self.cache_budget[-2:]])

    @property
    def keeps(self) -> bool:
        """Whether anything is said of how recordings are kept."""
        return any(name.startswith("cache") for name in self.said())

    @property
    def implied_way(self) -> str:
        """The way where none is said."""
        if self.coarse is not None:
            return "cold"
        return "warm" if self.task in FOLLOWING or self.keeps or self.record_steps is not None else "alongside"

    def implied_norm(self, *, series: bool) -> str:
        """The norms' statistics where none are said.

        A photo's would not do for what fills a hole at high noise, nor the first original's for what ten edits made of
        it; and where a mask takes in so much that its surroundings answer the edit, the norms shall, too.
        """
        cold = "cold" in (self.way, self.implied_way)  # its norms are the edit's own, of a few steps
        wide = self.policy == "wide" and self.task == "sdedit" and not cold
        follow = self.task == "inpaint" or wide or (series and self.task not in MOVING)
        return "updated" if follow else "original"

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


def resolve(preset_defaults: Mapping[str, Any], *layers: Mapping[str, Any], series: bool = False) -> Settings:
    """The settings that hold: each layer overrides those before it, and a value None overrides nothing.

    What no layer says may follow from the others, and from whether the edit is one of a `series`.

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
    named = {name for layer in layers for name, value in layer.items() if value is not None}
    own = _instead_of_the_preset(Settings.model_validate(said), series=series)
    settings = Settings.model_validate(said := said | {name: own[name] for name in own.keys() - named})
    implied: dict[str, Any] = {"way": settings.implied_way, "norm": settings.implied_norm(series=series)}
    if all(getattr(settings, name) == value for name, value in implied.items()):
        return settings
    return Settings.model_validate(implied | said)


def _instead_of_the_preset(settings: Settings, *, series: bool) -> dict[str, Any]:
    """What holds in place of a preset's values, which are for single edits of pictures that shine through."""
    if settings.task in FROM_NOISE:
        return {"strength": 1.0, "policy": "tight"}
    if series and settings.task == "sdedit":  # what an edit lacks is missing in all that follow
        return {"policy": "wide"}
    return {}
