"""Canny edges of rendered scenes, on disk with one bit per pixel: what the ControlNet is conditioned on.

python -m training.edges          renders scenes whose latents are there, and finds their edges
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sparsedit.canny import HIGH, LOW, canny
from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import sample_scene
from training.arguments import add_workers, command, worker_count
from training.parts import make_parts, read_parts
from training.pictures import Picture, recipe, scene_seeds
from training.settings import EDGED, HELD_OUT, WORK, PictureSet

PackedEdges = npt.NDArray[np.uint8]  # [N, H, W / 8], a bit per pixel


def edges_of(picture: Picture) -> npt.NDArray[np.bool_]:
    """Where a picture [H, W, 3] has edges: bool [H, W]."""
    return np.asarray(canny(Image.fromarray(picture)))[..., 0] > 0


def scene_edges(width: int, seeds: Sequence[int]) -> PackedEdges:
    """Edges of rendered scenes."""
    return np.packbits([edges_of(render(sample_scene(seed, width))) for seed in seeds], axis=-1)


def control_images(packed: PackedEdges) -> Tensor:
    """Edges as a ControlNet takes them from a pipeline: [N, 3, H, W] of 0 and 1."""
    edges = torch.from_numpy(np.unpackbits(packed, axis=-1)).float()
    return edges[:, None].expand(-1, 3, -1, -1)


def read_edges(pictures: PictureSet) -> PackedEdges:
    """The edges of a set, in the order of its seeds; InputError when not made yet."""
    _, parts = read_parts(folder_of(pictures))
    return np.concatenate(parts)


def folder_of(pictures: PictureSet) -> Path:
    """Where a set's edges lie."""
    return WORK / "edges" / pictures.name


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.edges", description="Find the edges of scenes.")
    add_workers(parser)
    workers = worker_count(parser.parse_args())
    for pictures in (HELD_OUT, EDGED):
        make = partial(scene_edges, pictures.width)
        make_parts(folder_of(pictures), scene_seeds(pictures), recipe(pictures, canny=[LOW, HIGH]), make, workers)


if __name__ == "__main__":
    main()
