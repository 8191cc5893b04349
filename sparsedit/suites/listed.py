"""Edits that are files with a list: a manifest's cases, and SIGE's, whose manifest comes with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsedit.errors import InputError, ManifestError
from sparsedit.manifest import Case, Variant, load_manifest
from sparsedit.suites.digest import digest
from sparsedit.suites.edit import DERIVED, GIVEN, Inputs, Suite, SuiteEdit

_IN_WHEEL = Path(__file__).parent / "sige.yaml"
_IN_CHECKOUT = Path(__file__).parents[2] / "manifests" / "sige.yaml"


def sige_suite(data: Path | None) -> Suite:
    """The cases that SIGE publishes, their pictures in the folder `data`. Raises as `manifest_suite`."""
    path = _IN_WHEEL if _IN_WHEEL.is_file() else _IN_CHECKOUT
    return manifest_suite(path, data, name="sige")


def manifest_suite(
    path: Path, data: Path | None = None, *, allow_outside: bool = False, name: str | None = None
) -> Suite:
    """Every variant of a manifest. Raises ManifestError and InputError as `load_manifest`."""
    manifest = load_manifest(path, data=data, allow_outside=allow_outside)
    pairs = [(case, variant) for case in manifest.cases for variant in case.variants]
    if any(
        "cache" in layer for case, variant in pairs for layer in (manifest.defaults, case.settings, variant.settings)
    ):
        raise ManifestError(f"{path}: a bench records every original anew; leave out cache")
    if any(case.original is None for case in manifest.cases):
        raise ManifestError(f"{path}: a bench edits pictures; give every case its original")
    files = {file for case, variant in pairs for file in (case.original, variant.edited, variant.mask) if file}
    data_print = {"manifest": manifest.sha256, "pictures": digest(sorted(files))}
    edits = tuple(_edit(case, variant) for case, variant in pairs)
    return Suite(name or path.stem, edits, data_print, manifest.model, manifest.defaults)


def _edit(case: Case, variant: Variant) -> SuiteEdit:
    assert case.original is not None  # as the suite has checked
    return SuiteEdit(
        case=case.id,
        variant=variant.id,
        edit_type=variant.edit_type,
        prompt=case.prompt,
        edit_prompt=variant.prompt,
        open=ListedFiles(case.original, variant.edited, variant.mask),
        has_edited=variant.edited is not None,
        has_mask=variant.mask is not None,
        track=GIVEN if variant.mask else DERIVED,
        settings=(case.settings, variant.settings),
    )


@dataclass(frozen=True)
class ListedFiles:
    """The files of one edit; calling it opens them."""

    original: Path
    edited: Path | None
    mask: Path | None

    def __call__(self) -> Inputs:
        # Not at the top: they import torch, which choosing and planning do without.
        from sparsedit.images import load_image
        from sparsedit.masks import load_mask

        original = load_image(self.original)
        edited = None if self.edited is None else load_image(self.edited)
        if edited is not None and edited.size != original.size:
            sizes = [f"{picture.width}x{picture.height}" for picture in (edited, original)]
            raise InputError(
                f"{self.edited} is {sizes[0]}, its original {self.original} {sizes[1]}; they must be the same"
            )
        mask = None if self.mask is None else load_mask(self.mask, original.size).numpy()
        return Inputs(original, edited, mask)
