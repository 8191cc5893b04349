"""What `edit` was asked for, made ready: manifest or single picture, configuration file and flags become jobs.

Everything that can be refused without opening a picture or loading a model is refused here. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sparsedit import __version__
from sparsedit.documents import read_document
from sparsedit.errors import InputError, SettingsError
from sparsedit.jobs import Job, plan_jobs
from sparsedit.manifest import Manifest, load_manifest, single_case
from sparsedit.models.presets import PRESETS, get_preset
from sparsedit.settings import Settings

DEFAULT_MODEL = "demo"


@dataclasses.dataclass(frozen=True)
class Work:
    """Jobs for one model. `sha256` is the manifest's, None for a single picture."""

    source: Path
    model: str
    jobs: Sequence[Job]
    sha256: str | None

    @property
    def name(self) -> str:
        return self.source.stem

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
        named = {"sparsedit": __version__, "input": self.source.name, "model": self.model}
        return named | {"settings": shared, "jobs": jobs}


class _ConfigFile(Settings):
    model: str | None = None


def plan_work(source: Path, options: Mapping[str, Any]) -> Work:
    """The work that the command line `options`, by parameter name, ask for on `source`.

    Raises a SparseditError for whatever of it cannot be done.
    """
    config = _read_config(options["config"])
    manifest = _manifest(source, options)
    model = options["model"] or config.pop("model", None) or manifest.model or DEFAULT_MODEL
    _check_model(model)
    defaults = PRESETS[model].defaults if model in PRESETS else {}
    flags = {key: options[key] for key in Settings.model_fields}
    jobs = plan_jobs(manifest, defaults, config, flags)
    _check_jobs(jobs)
    return Work(source, model, jobs, manifest.sha256)


def _read_config(path: Path | None) -> dict[str, Any]:
    """The settings, and perhaps the model, that a configuration file says."""
    if path is None:
        return {}
    return read_document(path, SettingsError).validate(_ConfigFile).model_dump(exclude_unset=True)


def _manifest(source: Path, options: Mapping[str, Any]) -> Manifest:
    is_manifest = source.suffix.lower() in (".yaml", ".yml")
    foreign = ("edited", "mask", "prompt", "edit_prompt") if is_manifest else ("data", "allow_outside")
    for key in foreign:
        if options[key]:
            kind = "a manifest, which says that itself" if is_manifest else "a picture; it goes with a manifest"
            raise InputError(f"--{key.replace('_', '-')} cannot be given here: {source} is {kind}")
    if is_manifest:
        return load_manifest(source, data=options["data"], allow_outside=options["allow_outside"])
    return single_case(
        source,
        options["edited"] or (),
        options["mask"],
        prompt=options["prompt"] or "",
        edit_prompt=options["edit_prompt"],
    )


def _check_model(name: str) -> None:
    """Refuse a word that is no model; whether a folder or a hub's model is one, loading tells."""
    if "/" not in name and not Path(name).is_dir():
        get_preset(name)


def _check_jobs(jobs: Sequence[Job]) -> None:
    for job in jobs:
        steps, strength = job.settings.steps, job.settings.strength
        if steps and strength and not job.settings.calls:
            raise SettingsError(
                f"case {job.case.id!r}: no step would run with steps {steps} and strength {strength:g}; "
                f"use a strength of at least {math.ceil(1000 / steps) / 1000:g}, or more steps"
            )
    for key in ("device", "dtype", "weights"):
        values = {getattr(job.settings, key) for job in jobs}
        if len(values) > 1:
            raise SettingsError(f"{key} must be the same in all cases of a run, not {', '.join(sorted(values))}")
