"""What `edit` was asked for, made ready: manifest or single picture, configuration file and flags become jobs.

Everything that can be refused without opening a picture or loading a model is refused here. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sparsedit import __version__
from sparsedit.documents import read_document
from sparsedit.errors import InputError, SettingsError
from sparsedit.jobs import Job, plan_jobs
from sparsedit.manifest import Manifest, load_manifest, single_case
from sparsedit.models.presets import get_preset, preset_and_file
from sparsedit.settings import Settings, resolve

DEFAULT_MODEL = "demo"


@dataclasses.dataclass(frozen=True)
class Work:
    """Jobs for one model. `sha256` is the manifest's, None for a single picture; no source means one that is made."""

    source: Path | None
    model: str
    jobs: Sequence[Job]
    sha256: str | None

    @property
    def name(self) -> str:
        return self.source.stem if self.source else "prompt"

    @property
    def edits(self) -> int:
        return sum(len(job.variants) for job in self.jobs)

    @property
    def settings(self) -> Settings:
        """Any job's settings: for those that hold for a whole run."""
        return self.jobs[0].settings

    def folder(self, now: datetime) -> Path:
        """Where the run's results go when nobody says."""
        return Path("runs") / f"{self.name}-{now:%Y%m%d-%H%M%S}"

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration: what all edits share, and for each job what is its own."""
        resolved = [job.settings.model_dump() | dataclasses.asdict(job.settings.mask_policy()) for job in self.jobs]
        first = resolved[0]
        shared = {key: value for key, value in first.items() if all(each[key] == value for each in resolved)}
        jobs = [
            {"case": job.case.id, "variants": [variant.id for variant in job.variants]}
            | {key: value for key, value in settings.items() if key not in shared}
            for job, settings in zip(self.jobs, resolved, strict=True)
        ]
        named = {"sparsedit": __version__, "input": self.source.name if self.source else None, "model": self.model}
        return named | {"settings": shared, "jobs": jobs}


class _ConfigFile(Settings):
    model: str | None = None


def plan_work(source: Path | None, options: Mapping[str, Any]) -> Work:
    """The work that the command line `options`, by parameter name, ask for on `source`.

    Raises a SparseditError for whatever of it cannot be done.
    """
    config = read_config(options["config"])
    manifest = _manifest(source, options, config)
    model = options["model"] or config.pop("model", None) or manifest.model or DEFAULT_MODEL
    check_model(model)
    flags = said_settings(options)
    preset, _ = preset_and_file(model)
    if source is None and flags["size"] is None and preset:
        flags["size"] = f"{preset.native_size}x{preset.native_size}"
    jobs = plan_jobs(manifest, preset_defaults(model), config, flags)
    _check_jobs(jobs)
    return Work(source, model, jobs, manifest.sha256)


def plan_settings(options: Mapping[str, Any]) -> tuple[str, Settings]:
    """The model and the settings that the command line asks for where there are no cases. Raises as `plan_work`."""
    config = read_config(options["config"])
    model = options["model"] or config.pop("model", None) or DEFAULT_MODEL
    check_model(model)
    flags = said_settings(options) | {"size": None}  # where it is said, of a picture that nobody generates
    settings = resolve(preset_defaults(model), config, flags)
    if settings.steps is None or settings.strength is None or settings.guidance is None:
        raise SettingsError(f"{model} has no preset, so --steps, --strength and --guidance must be given")
    _check_steps(settings)
    return model, settings


def preset_defaults(model: str) -> Mapping[str, Any]:
    """The settings that a model's preset says; none for a model without one."""
    preset, _ = preset_and_file(model)
    return preset.defaults if preset else {}


def said_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the options; a command need not have an option for each."""
    flags = {key: options.get(key) for key in Settings.model_fields}
    coarse = flags["coarse"]
    if isinstance(coarse, str) and coarse.isdigit():  # an option has one type, and this one is a number or a word
        flags["coarse"] = int(coarse)
    return flags


def refuse(options: Mapping[str, Any], names: Iterable[str], because: str) -> None:
    """Raise InputError for the first of these options that was given."""
    for name in names:
        if options.get(name):
            raise InputError(f"--{name.replace('_', '-')} cannot be given here: {because}")


def read_config(path: Path | None) -> dict[str, Any]:
    """The settings, and perhaps the model, that a configuration file says."""
    if path is None:
        return {}
    return read_document(path, SettingsError).validate(_ConfigFile).model_dump(exclude_unset=True)


def _manifest(source: Path | None, options: Mapping[str, Any], config: Mapping[str, Any]) -> Manifest:
    is_manifest = source is not None and source.suffix.lower() in (".yaml", ".yml")
    of_pictures = ("edited", "mask", "prompt", "edit_prompt", "by", "angle", "series")
    foreign = of_pictures if is_manifest else ("data", "allow_outside")
    kind = "a manifest, which says that itself" if is_manifest else "a picture; it goes with a manifest"
    refuse(options, foreign, f"{source} is {kind}")
    if source is None and (options["task"] or config.get("task")) != "prompt":
        raise InputError("Missing argument 'INPUT': name a picture or a manifest; only --task prompt does without")
    if source is not None and is_manifest:
        return load_manifest(source, data=options["data"], allow_outside=options["allow_outside"])
    return single_case(
        source,
        options["edited"] or (),
        options["mask"],
        prompt=options["prompt"] or "",
        edit_prompt=options["edit_prompt"],
        by=_pixels(options.get("by")),
        angle=options.get("angle"),
        series=bool(options.get("series")),
    )


def _pixels(by: str | None) -> tuple[int, int] | None:
    """`--by` as two numbers."""
    if by is None:
        return None
    if not re.fullmatch(r"[+-]?\d{1,6},[+-]?\d{1,6}", by):
        raise InputError(f"--by is two whole numbers of pixels, to the right and down, as in 64,0, not {by!r}")
    right, _, down = by.partition(",")
    return int(right), int(down)


def check_model(name: str) -> None:
    """Refuse a word that is no model; whether a folder, a file or a hub's model is one, loading tells."""
    preset, _ = preset_and_file(name)
    if preset is None and "/" not in name and not Path(name).exists():
        get_preset(name)


def _check_jobs(jobs: Sequence[Job]) -> None:
    for job in jobs:
        _check_steps(job.settings, f"case {job.case.id!r}: ")
    for key in ("device", "dtype", "offload", "weights", "lora", "vae", "scheduler", "controlnet", "refiner"):
        values = {getattr(job.settings, key) for job in jobs}
        if len(values) > 1:
            raise SettingsError(
                f"{key} must be the same in all cases of a run, not {', '.join(sorted(map(str, values)))}"
            )


def _check_steps(settings: Settings, where: str = "") -> None:
    steps, strength = settings.steps, settings.strength
    if steps and strength and not settings.calls:
        raise SettingsError(
            f"{where}no step would run with steps {steps} and strength {strength:g}; "
            f"use a strength of at least {math.ceil(1000 / steps) / 1000:g}, or more steps"
        )
