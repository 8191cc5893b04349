"""Scores pairs of pictures by a protocol.

What cannot be scored is known, with its reason, before the first pair: `Scorer.missing`. Knows pictures, masks and
prompts; no models that make them and no runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparsedit.errors import InputError
from sparsedit.metrics.backbones import backbones_of, find, why_missing
from sparsedit.metrics.clip import Clip
from sparsedit.metrics.fidelity import fidelity
from sparsedit.metrics.perceptual import MIN_SIDE, Lpips
from sparsedit.metrics.pixels import Mask, Pixels, border_jump, mse, psnr_of, unit
from sparsedit.metrics.protocol import Protocol, check_metrics
from sparsedit.metrics.ssim import WINDOW, ssim
from sparsedit.metrics.structure import Structure
from sparsedit.suites.brackets import strip_brackets
from sparsedit.suites.pie import with_border

REGIONS = ("inside", "outside", "whole")

BATCH = 8
"""Pairs that the networks see at once."""

_FEWER_THAN = "a picture smaller than {side} px has none"


@dataclass(frozen=True)
class Pair:
    """Two RGB pictures: what `result` is scored against, and with what. `mask` is bool [H, W], true where edited."""

    reference: Image.Image
    result: Image.Image
    mask: Mask | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Scores:
    """The values of one pair under `protocol`; None where there is none, with the reason in `missing`.

    `identical` says that the two are equal wherever the protocol looks, `equal` names the PSNRs that are null since the
    pixels they look at are.
    """

    protocol: str
    values: dict[str, float | None]
    identical: bool
    missing: dict[str, str]
    equal: tuple[str, ...] = ()

    def entry(self) -> dict[str, Any]:
        """The scores as one flat object, as a record's `quality`."""
        return {"protocol": self.protocol, **self.values, "identical": self.identical}


class Scorer:
    """Scores pairs by `protocol`: all its metrics, or those named.

    Networks are looked for at once and read when the first pair needs them. `backbones` is a folder with their
    weights, looked into before torch's and the hub's caches. Raises SettingsError for a metric that there is not.
    """

    def __init__(
        self,
        protocol: Protocol,
        metrics: Sequence[str] = (),
        *,
        backbones: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.protocol = protocol
        self.metrics = check_metrics(metrics or protocol.metrics, protocol)
        self.device = device
        self.missing: dict[str, str] = {}
        self._places: dict[str, Path] = {}
        self._loaded: dict[str, Any] = {}
        for metric, backbone in backbones_of(protocol).items():
            if metric not in self.metrics:
                continue
            place = find(backbone, backbones)
            if place is None:
                self.missing[metric] = why_missing(backbone)
            else:
                self._places[metric] = place
        self.missing = {column: why for name, why in self.missing.items() for column in self._columns_of(name)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the values, in their order, with those that need a mask."""
        if self.protocol.scored == "regions":
            plain = [name for name in self.metrics if name != "seam"]
            names = [f"{region}_{name}" for region in REGIONS for name in plain]
            return (*names, *(self._columns_of("seam") if "seam" in self.metrics else ()))
        return tuple(column for metric in self.metrics for column in self._columns_of(metric))

    def _columns_of(self, metric: str) -> tuple[str, ...]:
        if metric == "seam":
            return ("seam", "seam_reference")
        if self.protocol.scored == "regions":
            return tuple(f"{region}_{metric}" for region in REGIONS)
        return ("clip", "clip_edited") if metric == "clip" and self.protocol.clip_edited else (metric,)

    def check(self, pair: Pair) -> None:
        """Raise InputError for pictures or a mask of sizes that the protocol cannot compare."""
        sizes = [picture.size for picture in (pair.reference, pair.result)]
        if self.protocol.size is None and sizes[0] != sizes[1]:
            said = " and ".join(f"{width}x{height}" for width, height in sizes)
            raise InputError(f"the pictures are {said}; protocol {self.protocol.name} needs one size")
        if pair.mask is not None and pair.mask.shape[::-1] != sizes[1]:
            height, width = pair.mask.shape
            raise InputError(f"the mask is {width}x{height}, its picture {sizes[1][0]}x{sizes[1][1]}")

    @property
    def lpips(self) -> Lpips | None:
        return self._network("lpips", lambda place: Lpips(self.protocol.lpips, place, self.device))

    @property
    def clip(self) -> Clip | None:
        return self._network("clip", lambda place: Clip(place, self.device))

    @property
    def structure(self) -> Structure | None:
        return self._network("structure", lambda place: Structure(place, self.device))

    def score(self, pair: Pair) -> Scores:
        """The scores of one pair. Raises InputError when the two, or the mask, are of different sizes."""
        [scores] = self.score_all([pair])
        return scores

    def score_all(self, pairs: Sequence[Pair]) -> Iterator[Scores]:
        """The scores of many pairs, in order; the networks see those of one size together. Raises as `score`."""
        for pair in pairs:
            self.check(pair)
        prepared = (_Prepared(pair, self.protocol) for pair in pairs)
        for _, group in groupby(prepared, key=lambda pair: pair.a.shape):
            while batch := list(islice(group, BATCH)):
                yield from self._batch(batch)

    def _network(self, metric: str, load: Callable[[Path], Any]) -> Any:
        if metric not in self._places:
            return None
        if metric not in self._loaded:
            self._loaded[metric] = load(self._places[metric])
        return self._loaded[metric]

    def _batch(self, pairs: list[_Prepared]) -> Iterator[Scores]:
        rows: list[dict[str, float | None]] = [{} for _ in pairs]
        missing = [dict(self.missing) for _ in pairs]
        for row, why, pair in zip(rows, missing, pairs, strict=True):
            self._score_pixels(row, why, pair)
        if self.protocol.scored != "regions":
            self._score_lpips(rows, missing, pairs)
        if self.protocol.clip and "clip" in self.metrics:
            self._score_clip(rows, missing, pairs)
        if "structure" in self.metrics:
            self._score_structure(rows, pairs)
        for row, why, pair in zip(rows, missing, pairs, strict=True):
            yield self._scores(row, pair, why)

    def _scores(self, row: dict[str, float | None], pair: _Prepared, missing: dict[str, str]) -> Scores:
        values = {name: row.get(name) for name in self.columns}
        psnrs = [name for name in self.columns if name.endswith("psnr") and values[name] is None]
        equal = tuple(name for name in psnrs if name not in missing)
        return Scores(self.protocol.name, values, pair.identical, missing, equal)

    def _score_pixels(self, row: dict[str, float | None], missing: dict[str, str], pair: _Prepared) -> None:
        if self.protocol.scored == "regions":
            row |= self._regions(pair, missing)
        elif pair.background_fault:
            missing |= dict.fromkeys(set(self.metrics) & {"psnr", "ssim", "mse", "lpips"}, pair.background_fault)
            row |= dict.fromkeys(("psnr", "ssim", "mse"), None)
        else:
            error = mse(pair.a, pair.b)
            row |= {"psnr": psnr_of(error), "ssim": ssim(pair.a, pair.b), "mse": error}
            if row["ssim"] is None and "ssim" in self.metrics:
                missing["ssim"] = _FEWER_THAN.format(side=WINDOW)
        if "seam" in self.metrics:
            row |= {"seam": pair.seam(pair.result), "seam_reference": pair.seam(pair.reference)}
            if row["seam"] is None:
                missing |= dict.fromkeys(("seam", "seam_reference"), "needs a mask with a border inside the picture")

    def _regions(self, pair: _Prepared, missing: dict[str, str]) -> dict[str, float | None]:
        masks = {} if pair.mask is None else dict(zip(REGIONS, (pair.mask, ~pair.mask), strict=False))
        scores = fidelity(pair.result, pair.reference, masks, self.lpips)
        names = [name for name in self.metrics if name != "seam"]
        for region in REGIONS:
            for name in names:
                if why := _no_value(name, region, masks, pair):
                    missing.setdefault(f"{region}_{name}", why)
        return {f"{region}_{name}": values[name] for region, values in scores.items() for name in names}

    def _score_lpips(
        self, rows: list[dict[str, float | None]], missing: list[dict[str, str]], pairs: list[_Prepared]
    ) -> None:
        for row, why in zip(rows, missing, strict=True):
            row["lpips"] = None
            if self.lpips is not None and min(pairs[0].a.shape[:2]) < MIN_SIDE:
                why.setdefault("lpips", _FEWER_THAN.format(side=MIN_SIDE))
        places = [place for place, why in enumerate(missing) if "lpips" not in why]
        if self.lpips is None or not places:
            return
        a, b = (torch.cat([_signed(getattr(pairs[place], side)) for place in places]) for side in "ab")
        for place, value in zip(places, self.lpips(a, b), strict=True):
            rows[place]["lpips"] = value

    def _score_clip(
        self, rows: list[dict[str, float | None]], missing: list[dict[str, str]], pairs: list[_Prepared]
    ) -> None:
        names = ("clip", "clip_edited") if self.protocol.clip_edited else ("clip",)
        for name in names:
            asked: list[tuple[int, Image.Image, str]] = []
            for place, (pair, row, why) in enumerate(zip(pairs, rows, missing, strict=True)):
                row[name] = None
                picture = pair.result if name == "clip" else pair.edited_part
                if not pair.prompt:
                    why.setdefault(name, "needs the prompt of the edit")
                elif picture is None:
                    why.setdefault(name, "needs a mask that is not empty")
                elif self.clip is not None:
                    asked.append((place, picture, pair.prompt))
            if asked and self.clip is not None:
                places, pictures, prompts = zip(*asked, strict=True)
                for place, value in zip(places, self.clip(pictures, prompts), strict=True):
                    rows[place][name] = value

    def _score_structure(self, rows: list[dict[str, float | None]], pairs: list[_Prepared]) -> None:
        values: Sequence[float | None] = [None] * len(pairs)
        if self.structure is not None:
            scale = self.protocol.structure_range
            a, b = (
                torch.cat([_tensor(unit(getattr(pair, side))) * scale for pair in pairs])
                for side in ("reference", "result")
            )
            values = self.structure(a, b, antialias=self.protocol.structure_antialias)
        for row, value in zip(rows, values, strict=True):
            row["structure"] = value


class _Prepared:
    """A pair as its protocol sees it: `a` and `b` are what pixel scores and LPIPS compare, in [0, 1]."""

    def __init__(self, pair: Pair, protocol: Protocol) -> None:
        self.reference, self.result = (_sized(picture, protocol.size) for picture in (pair.reference, pair.result))
        self.mask = self._mask(pair, protocol)
        self.prompt = strip_brackets(pair.prompt) if pair.prompt else None
        self.a, self.b = unit(self.reference), unit(self.result)
        self.background_fault = ""
        if protocol.needs_mask:
            self._take_background()
        self.identical = not self.background_fault and bool(np.array_equal(self.a, self.b))

    @property
    def edited_part(self) -> Image.Image | None:
        """The result with everything outside the mask black; None where nothing is inside."""
        if self.mask is None or not self.mask.any():
            return None
        return Image.fromarray(np.asarray(self.result) * self.mask[..., None])

    def seam(self, picture: Image.Image) -> float | None:
        return None if self.mask is None else border_jump(unit(picture), self.mask)

    def _mask(self, pair: Pair, protocol: Protocol) -> Mask | None:
        if pair.mask is None:
            return None
        mask = np.asarray(_sized(Image.fromarray(pair.mask), protocol.size))
        return with_border(mask) if protocol.border else mask

    def _take_background(self) -> None:
        if self.mask is None:
            self.background_fault = "needs a mask, to tell the background"
            return
        if self.mask.all():
            self.background_fault = "the mask covers everything, so there is no background"
        keep = ~self.mask[..., None]
        self.a, self.b = self.a * keep, self.b * keep


def _no_value(metric: str, region: str, masks: Mapping[str, Mask], pair: _Prepared) -> str:
    """Why a region of a pair has no such value, its network aside; nothing where it has, or is equal."""
    if region != "whole" and region not in masks:
        return "needs a mask, to tell inside from outside"
    if region != "whole" and not masks[region].any():
        return "the mask covers everything" if region == "outside" else "the mask is empty"
    smallest = {"ssim": WINDOW, "lpips": MIN_SIDE}.get(metric, 0)
    return _FEWER_THAN.format(side=smallest) if min(pair.a.shape[:2]) < smallest else ""


def _sized(picture: Image.Image, size: int | None) -> Image.Image:
    if size is None or picture.size == (size, size):
        return picture
    # A mask has no levels between: each of its pixels is the nearest one's.
    filter_ = Image.Resampling.NEAREST if picture.mode == "1" else Image.Resampling.LANCZOS
    return picture.resize((size, size), filter_)


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def _signed(pixels: Pixels) -> Tensor:
    """Pixels in [0, 1] as LPIPS takes them: [1, 3, H, W] in [-1, 1]."""
    return _tensor(pixels) * 2 - 1
