"""From a manifest to work: which variants of a case run together, under which settings.

Variants of one case that share everything but picture, mask and prompt share one run of the original, and are one
`Job`. Knows no models: a plan can be made, printed and checked without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparsedit.calibration import plan_dense_steps
from sparsedit.errors import ManifestError, SettingsError
from sparsedit.manifest import Case, Manifest, Variant
from sparsedit.settings import FOLLOWING, MOVING, Settings, resolve


@dataclass(frozen=True)
class Job:
    """One original, run under `prompt`, and the variants of it that are edited under the same settings."""

    case: Case
    prompt: str
    variants: tuple[Variant, ...]
    settings: Settings

    @property
    def seed(self) -> int:
        return case_seed(self.settings.seed, self.case.id)

    @property
    def inverted(self) -> bool:
        """Whether the original is a picture that is led back to noise first."""
        return self.settings.task == "prompt" and self.case.original is not None

    @property
    def passes(self) -> int:
        """Thin passes of an edit: in a series what was filled runs once more, as a part of the photo."""
        return 2 if self.case.series and self.settings.task in ("inpaint", *MOVING) else 1

    def place(self, variant: Variant) -> dict[str, int] | None:
        """Which edit of how many in a series a variant is; None where it is none of a series."""
        if not self.case.series:
            return None
        return {"position": self.variants.index(variant) + 1, "edits": len(self.variants)}

    def record_id(self, variant: Variant, model: str) -> str:
        """Hash of case, variant and configuration: the same work has the same id in every run.

        In a series that takes the variants before.
        """
        what: dict[str, Any] = {
            "case": self.case.id,
            "variant": variant.id,
            "prompts": [self.prompt, variant.prompt],
            "model": model,
            "settings": self.settings.model_dump(exclude={"device", "cache", "cache_budget"}),
        }
        if self.case.series:
            before = self.variants[: self.variants.index(variant)]
            what["series"] = [[each.id, each.prompt] for each in before]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def plan_jobs(
    manifest: Manifest, preset_defaults: Mapping[str, Any], config: Mapping[str, Any], flags: Mapping[str, Any]
) -> list[Job]:
    """The manifest's work in its order, settings resolved: preset < manifest < case < variant < config < flags.

    Raises ManifestError for settings that contradict each other, naming case and variant.
    """
    return [job for case in manifest.cases for job in _jobs_of(case, manifest, preset_defaults, config, flags)]


def case_seed(seed: int, case_id: str) -> int:
    """The seed of a case's noise: of `seed` and the case's id alone, not of order, shard, batch or device."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{case_id}".encode()).digest()[:8], "big") >> 1


def prompt_of_original(own: str, edit: str, settings: Settings) -> str:
    """Which of two prompts an original runs under, its own or the edit's."""
    context = settings.context or ("self" if settings.task == "inpaint" else "original")
    return edit if context == "self" else own


def _jobs_of(
    case: Case,
    manifest: Manifest,
    preset_defaults: Mapping[str, Any],
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
) -> Iterator[Job]:
    groups: dict[tuple[str, Settings], list[Variant]] = {}
    if case.series:
        preset_defaults = {**preset_defaults, "way": "warm"}
    for variant in case.variants:
        own = (manifest.defaults, case.settings, variant.settings)
        if any("cache" in layer for layer in own):
            raise ManifestError(
                "a manifest cannot say where recordings are written: use --cache or a configuration file"
            )
        settings = resolve(preset_defaults, *own, config, flags, series=case.series)
        _check(case, variant, settings)
        if settings.task == "prompt" and case.original is not None and settings.scheduler is None:
            settings = Settings.model_validate(settings.said() | {"scheduler": "ddim"})  # which can be inverted
        first = case.variants[0] if case.series else variant
        prompt = prompt_of_original(case.prompt, first.prompt, settings)
        groups.setdefault((prompt, settings), []).append(variant)
    if case.series:
        _check_series(case, [settings for _, settings in groups])
    for (prompt, settings), variants in groups.items():
        yield Job(case, prompt, tuple(variants), settings)


def _check_series(case: Case, settings_of: Iterable[Settings]) -> None:
    """Raise ManifestError for edits that cannot go on from one another."""
    first, *others = settings_of
    for settings in others:
        names = [name for name, value in settings if value != getattr(first, name)]
        raise ManifestError(
            f"case {case.id!r}: the edits of a series share one recording, so all take the same settings, "
            f"and these differ in {', '.join(names)}"
        )
    if first.way != "warm":
        raise ManifestError(f"case {case.id!r}: a series goes on from a recording: way warm, not {first.way}")
    if first.cache_rows == "halo":
        raise ManifestError(f"case {case.id!r}: a series needs every row of its recording: leave out cache_rows halo")
    if first.task == "prompt" and plan_dense_steps(first) is not None:
        raise ManifestError(
            f"case {case.id!r}: a series of prompt edits writes every step of its recording: leave out record_steps "
            "and fidelity"
        )


def _check(case: Case, variant: Variant, settings: Settings) -> None:
    where = f"case {case.id!r}, variant {variant.id!r}"
    if settings.task == "sdedit" and variant.edited is None:
        raise ManifestError(f"{where}: task sdedit needs an edited picture (inpaint needs a mask alone)")
    if settings.task == "inpaint" and variant.mask is None:
        raise ManifestError(f"{where}: task inpaint needs a mask")
    _check_parts(case, variant, settings, where)
    if settings.keeps and settings.task not in ("sdedit", "inpaint"):
        raise ManifestError(f"{where}: a cache keeps recordings of tasks sdedit and inpaint, not of {settings.task}")
    if settings.keeps and settings.way != "warm":
        raise ManifestError(f"{where}: a cache keeps recordings for way warm; way {settings.way} makes none to keep")
    if settings.steps is None or settings.strength is None or settings.guidance is None:
        raise SettingsError(f"{where}: this model has no preset, so steps, strength and guidance must be given")
    try:
        plan_dense_steps(settings)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error


def _check_parts(case: Case, variant: Variant, settings: Settings, where: str) -> None:
    """What the newer tasks take and what they do not."""
    task = settings.task
    for name, value, owner in (("by", variant.by, "pan"), ("angle", variant.angle, "rotate")):
        if value is not None and task != owner:
            raise ManifestError(f"{where}: {name} goes with task {owner}, not with {task}")
    if task == "control" and variant.edited is None:
        raise ManifestError(f"{where}: task control needs an edited picture: another map, or a photo with other edges")
    if task in FOLLOWING and variant.edited is not None:
        raise ManifestError(f"{where}: task {task} takes no edited picture")
    if task in MOVING and (settings.way != "warm" or settings.record_steps is not None):
        raise ManifestError(f"{where}: task {task} reads every step of its original's run: way warm, no record_steps")
    if task == "prompt" and settings.way == "alongside":
        raise ManifestError(f"{where}: task prompt follows the run of its original: way warm or cold")
    if case.original is None and settings.size is None:
        raise ManifestError(f"{where}: an original that is made needs a size, such as 512x512 (--size)")
    if case.original is not None and settings.size is not None:
        raise ManifestError(f"{where}: size is for an original that is made; this one is {case.original.name}")
