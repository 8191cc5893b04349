"""The pictures that are learnt from: which scenes, rendered to disk once, and where their objects lie.

python -m training.pictures             renders the sets that the autoencoder and the probe train on
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsedit.suites.scenes.render import render
from sparsedit.suites.scenes.scene import HEIGHT, Scene, sample_scene
from training.arguments import add_workers, command, worker_count
from training.parts import make_parts
from training.settings import (
    HELD_OUT,
    PICTURES,
    PROBE,
    PROBE_HELD_OUT,
    SHARES,
    WORK,
    ObjectWeights,
    PictureSet,
    ProbeSettings,
    SceneShares,
)

Picture = npt.NDArray[np.uint8]

LATENT_PIXELS = 8  # one latent covers so many pixels on a side


def scene_seeds(pictures: PictureSet, shares: SceneShares = SHARES) -> list[int]:
    """The seeds of a set, ascending; in a picked set scenes with objects are more frequent."""
    seeds: list[int] = []
    seed = pictures.first_seed
    while len(seeds) < pictures.count:
        if not pictures.picked or _picked(seed, pictures.width, shares):
            seeds.append(seed)
        seed += 1
    return seeds


def _picked(seed: int, width: int, shares: SceneShares) -> bool:
    scene, share = sample_scene(seed, width), 1.0
    if scene.house is None:
        share *= shares.without_house
    if scene.boat is None:
        share *= shares.without_boat
    if not has_trees(scene):
        share *= shares.without_trees
    return bool(np.random.default_rng([seed, 55]).random() < share)


def has_trees(scene: Scene) -> bool:
    """Whether trees are to be seen: their kind may be set in a scene that has no place for them."""
    return scene.trees != "none" and len(scene.tree_spots) > 0


def recipe(pictures: PictureSet, **more: Any) -> dict[str, Any]:
    """What a set on disk was made from, down to the renderer's pixels."""
    pixels = hashlib.sha256()
    for seed in range(4):
        pixels.update(render(sample_scene(seed, pictures.width)).tobytes())
    return {"set": asdict(pictures), "shares": asdict(SHARES), "pixels": pixels.hexdigest()[:16], **more}


def render_all(width: int, seeds: Sequence[int]) -> Picture:
    """Pictures [N, 256, width, 3] of scenes."""
    return np.stack([render(sample_scene(seed, width)) for seed in seeds])


def render_small(size: int, seeds: Sequence[int]) -> Picture:
    """Square pictures [N, size, size, 3], averaged down."""
    step = HEIGHT // size
    pictures = [render(sample_scene(seed)) for seed in seeds]
    blocks = np.stack(pictures).reshape(len(seeds), size, step, size, step, 3)
    return np.asarray(blocks.mean((2, 4)) + 0.5, np.uint8)


def to_tensor(pictures: Picture) -> Tensor:
    """Pictures [N, H, W, 3] as [N, 3, H, W] in [-1, 1], channels last."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pictures(images: Tensor) -> Picture:
    """Images [N, 3, H, W] in about [-1, 1] as pictures [N, H, W, 3]."""
    levels = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return np.asarray(levels.byte().permute(0, 2, 3, 1).cpu().numpy())


def object_weights(scene: Scene, weights: ObjectWeights) -> npt.NDArray[np.float32]:
    """Loss weights [32, width / 8] of a scene's latents: 1, and more where its objects are."""
    height, width = HEIGHT // LATENT_PIXELS, scene.width // LATENT_PIXELS
    result = np.ones((height, width), np.float32)

    def raise_box(left: float, top: float, right: float, bottom: float, more: float) -> None:
        x0, x1 = (int(np.clip(x, 0, scene.width)) // LATENT_PIXELS for x in (left, right + 7))
        y0, y1 = (int(np.clip(y, 0, HEIGHT)) // LATENT_PIXELS for y in (top, bottom + 7))
        box = result[y0:y1, x0:x1]
        np.maximum(box, 1 + more, out=box)

    if scene.has_body:
        x, y = scene.body_x, scene.body_y
        raise_box(x - 18, y - 18, x + 18, y + 18, weights.body)
    if scene.trees != "none":
        more = weights.pines if scene.trees == "pine" else weights.trees
        for spot in scene.tree_spots:
            tall, foot = (30 + 44 * spot.depth) * spot.scale, scene.horizon + 14 + spot.depth * 92
            raise_box(spot.x - tall * 0.3, foot - tall, spot.x + tall * 0.3, foot, more)
    if scene.boat is not None:
        x, y = scene.boat_x, scene.horizon
        raise_box(x - 20, y, x + 20, y + 46, weights.boat)
    if scene.house is not None:
        house = scene.house
        half, tall = house.width * 0.52, house.width * 0.74
        raise_box(house.x - half, house.y - tall, house.x + half, house.y, weights.house)
    return result


def folder_of(pictures: PictureSet) -> Path:
    """Where the rendered pictures of a set lie."""
    return WORK / "pictures" / pictures.name


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pictures", description="Render pictures to disk.")
    add_workers(parser)
    workers = worker_count(parser.parse_args())
    size = ProbeSettings().size
    for pictures in (PICTURES, HELD_OUT):
        make = partial(render_all, pictures.width)
        make_parts(folder_of(pictures), scene_seeds(pictures), recipe(pictures), make, workers)
    for pictures in (PROBE, PROBE_HELD_OUT):
        make = partial(render_small, size)
        make_parts(folder_of(pictures), scene_seeds(pictures), recipe(pictures, size=size), make, workers)


if __name__ == "__main__":
    main()
