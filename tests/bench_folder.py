"""A suite of small pictures in a folder, and a tiny model on the disk to run it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.pipelines import tiny_sd15

LINES = ("name,prompt,edit_prompt,edit_type", "a,a house,a red house,add object", "b,a tree,,add object",
         '"c","a lake, calm",a sea,delete object')  # fmt: skip


def write_folder(folder: Path) -> Path:
    """Three originals of 96x64: a and b have strokes on them, c a hole."""
    for kind in ("original", "edited", "masks"):
        (folder / kind).mkdir(parents=True)
    for seed, name in enumerate("abc"):
        noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        original = Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC)
        original.save(folder / "original" / f"{name}.png")
        if name == "c":
            hole = np.zeros((64, 96), dtype=np.uint8)
            hole[20:34, 60:74] = 255
            Image.fromarray(hole).save(folder / "masks" / "c.png")
        else:
            painted = np.asarray(original).copy()
            painted[20:34, 30:44] = (200, 30, 30)
            Image.fromarray(painted).save(folder / "edited" / f"{name}.png")
    (folder / "prompts.csv").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return folder


def write_model(folder: Path) -> Path:
    """A model without a preset: its steps, strength and guidance have to be said."""
    tiny_sd15().save_pretrained(folder)
    return folder
