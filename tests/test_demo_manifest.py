"""The manifests in the repository: they load, and the demo's pictures are what its script draws."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsedit.errors import ManifestError
from sparsedit.images import load_image, to_tensor
from sparsedit.manifest import Variant, load_manifest
from sparsedit.masks import difference, edit_ratio, load_mask
from sparsedit.suites.item import EDIT_TYPES

MANIFESTS = Path(__file__).parent.parent / "manifests"


def mask_of(original: Path, variant: Variant) -> torch.Tensor:
    picture = load_image(original)
    if variant.mask is not None:
        return load_mask(variant.mask, picture.size)
    assert variant.edited is not None
    return difference(to_tensor(picture), to_tensor(load_image(variant.edited)), 0.02)


def test_the_demo_pictures_are_those_of_the_script() -> None:
    drawn = runpy.run_path(str(MANIFESTS / "draw_demo.py"))["pictures"]()
    stored = {path.stem: path for path in (MANIFESTS / "demo").iterdir()}
    assert drawn.keys() == stored.keys()
    for name, picture in drawn.items():
        apart = np.abs(np.asarray(picture.convert("RGB")).astype(int) - np.asarray(load_image(stored[name])))
        # Vector units of other processors round a few values to the other side.
        assert apart.max() <= 1 or (apart > 1).mean() < 1e-4, name
        assert stored[name].stat().st_size < 150_000, name


def test_the_demo_covers_the_kinds_of_edits() -> None:
    manifest = load_manifest(MANIFESTS / "demo.yaml")
    assert len(manifest.cases) == 3
    assert sorted(load_image(case.original).size for case in manifest.cases) == [
        (256, 256),
        (256, 256),
        (512, 256),
    ]
    edits = [(case, variant) for case in manifest.cases for variant in case.variants]
    assert all(variant.edit_type in EDIT_TYPES.values() for _, variant in edits)
    assert {variant.edit_type for _, variant in edits} >= {
        "add object",
        "delete object",
        "change colour",
        "change background",
    }
    strokes = [(case, variant) for case, variant in edits if variant.settings.get("task") != "inpaint"]
    assert sum(variant.prompt == case.prompt for case, variant in strokes) >= 4
    for case, variant in edits:
        large = variant.edit_type == "change background"
        assert 0.01 < edit_ratio(mask_of(case.original, variant)) < (0.35 if large else 0.125), variant.id


def test_the_sige_manifest_says_where_its_pictures_are() -> None:
    with pytest.raises(ManifestError, match=r"github\.com/lmxyy/sige.*--data"):
        load_manifest(MANIFESTS / "sige.yaml")


def test_the_sige_manifest_needs_only_the_published_files(tmp_path: Path) -> None:
    names = ("sdedit0_original.png", "sdedit0_edited.png", "inpaint_original.png", "inpaint_mask.npy")
    for name in names:
        (tmp_path / name).write_bytes(b"not opened before the run")
    manifest = load_manifest(MANIFESTS / "sige.yaml", data=tmp_path)
    assert [case.id for case in manifest.cases] == ["sdedit0", "inpaint"]
    variant = manifest.cases[1].variants[0]
    assert variant.mask == (tmp_path / names[3]).resolve()
