"""A few pictures on disk for the trainings that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from training import latents, pictures
from training.parts import make_parts
from training.settings import DEMO, PictureSet


@contextmanager
def small_sets(
    training: ModuleType, folder: Path, count: int, held_out: int, *, encoded: bool = True
) -> Iterator[Path]:
    """In the block a training finds in `folder` so many pictures, others held out, and their latents if `encoded`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "WORK", folder)
        patch.setattr(latents, "WORK", folder)
        patch.setattr(training, "PICTURES", PictureSet("some", count, 300_000))
        patch.setattr(training, "HELD_OUT", PictureSet("others", held_out, 6_000_000))
        for some in (training.PICTURES, training.HELD_OUT):
            render = partial(pictures.render_all, some.width)
            make_parts(pictures.folder_of(some), pictures.scene_seeds(some), {}, render, 1)
            if encoded:
                latents.make_latents(some, DEMO, 1)
        yield folder
