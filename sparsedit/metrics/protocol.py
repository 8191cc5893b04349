"""Protocols: under which rules two pictures are scored, so that a value can be told from another of the same name.

A protocol is data; `Scorer` follows it. Values are printed and stored beside the protocol's name, and a changed rule
is another name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparsedit.errors import SettingsError, did_you_mean

METRICS = ("ssim", "psnr", "mse", "lpips", "clip", "structure", "seam")
"""What may be asked for; `clip` brings `clip_edited` with it where a protocol scores it."""

LPIPS_NETS = ("squeeze", "alex", "vgg")

NETWORKS = {"clip": "CLIP ViT-L/14", "clip-b16": "CLIP ViT-B/16", "dino": "DINO ViT-B/8"}
"""What `Protocol.clip` and `Protocol.structure` name."""


@dataclass(frozen=True)
class Protocol:
    """The rules of one protocol.

    `scored`: which pixels SSIM, PSNR, MSE and LPIPS see: all of both pictures ("whole"), both multiplied by
    (1 - mask) with the zeros staying in every mean ("background"), or means over the pixels inside the mask, outside
    it and everywhere apart ("regions"). `size`: both pictures are resized to its square first, by LANCZOS; None leaves
    them. `border`: outermost pixels of the mask that are set before anything is scored. `lpips`: the network under
    LPIPS. `clip`: the weights of the CLIP score, `clip_edited` whether it is taken of result * mask too.
    `structure`: the weights of the structure distance, `structure_range` the largest value of the pixels that reach
    ImageNet's normalisation there, `structure_antialias` whether pictures are smoothed when they are made smaller.
    """

    name: str
    title: str
    source: str
    scored: Literal["whole", "background", "regions"]
    metrics: tuple[str, ...]
    size: int | None = None
    border: int = 0
    data_range: float = 1.0
    lpips: str = "squeeze"
    clip: str | None = None
    clip_edited: bool = False
    structure: str | None = None
    structure_range: int = 1
    structure_antialias: bool = False
    notes: tuple[str, ...] = ()

    @property
    def needs_mask(self) -> bool:
        return self.scored == "background"

    def with_lpips(self, net: str) -> Protocol:
        """The protocol on another network, under a name that says so. Raises SettingsError for an unknown one."""
        if net not in LPIPS_NETS:
            raise SettingsError(f"there is no LPIPS network {net!r}; known: {', '.join(LPIPS_NETS)}")
        return self if net == self.lpips else dataclasses.replace(self, name=f"{self.name}+lpips-{net}", lpips=net)


_CLIP_SCALE = "100 times the cosine, at least 0"
_KEYS = "MSE of the cosine self-similarity of the keys of DINO ViT-B/8, layer 11, all tokens"
_FULL = ("ssim", "psnr", "mse", "lpips", "clip", "structure")

WHOLE_V1 = Protocol(
    name="whole-v1",
    title="the whole picture, at 512 x 512",
    source="Fast-Image-Editing's evaluation of PIE-Bench",
    scored="whole",
    metrics=_FULL,
    size=512,
    clip="clip-b16",
    structure="dino",
    structure_antialias=True,
    notes=(
        "brackets are stripped from prompts; the reference leaves them in",
        f"the CLIP score is {_CLIP_SCALE}",
        f"structure: {_KEYS}; shorter side 224, bilinear",
    ),
)
PNP_V1 = Protocol(
    name="pnp-v1",
    title="the background is kept, the edited part follows the prompt",
    source="PnP Inversion's evaluation of PIE-Bench (Ju et al., ICLR 2024)",
    scored="background",
    metrics=_FULL,
    border=1,
    clip="clip",
    clip_edited=True,
    structure="dino",
    structure_range=255,
    notes=(
        "brackets are stripped from prompts; both CLIP scores take the full target prompt",
        f"LPIPS sees masked * 2 - 1, so what is masked is -1; the CLIP score is {_CLIP_SCALE}",
        f"structure: {_KEYS}; shorter side 224, bilinear; ImageNet's normalisation meets pixels of 0 to 255, as in the"
        " reference, which resized without antialiasing",
        "a mask that covers everything leaves no background: its values are null, left out of means, and counted",
    ),
)
SPARSE_VS_DENSE = Protocol(
    name="sparse-vs-dense",
    title="how close a sparse edit comes to the dense one",
    source="sparsedit",
    scored="regions",
    metrics=("psnr", "ssim", "lpips", "mse", "seam"),
    notes=(
        "SSIM and LPIPS of a region are means of their maps, which are computed on the whole pictures",
        "a region that a mask leaves empty has no values: null, left out of means, and counted",
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in (WHOLE_V1, PNP_V1, SPARSE_VS_DENSE)}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises SettingsError naming those there are."""
    if name not in PROTOCOLS:
        known = f"; known: {', '.join(PROTOCOLS)}"
        raise SettingsError(f"there is no protocol {name!r}{did_you_mean(name, PROTOCOLS) or known}")
    return PROTOCOLS[name]


def check_metrics(names: Sequence[str], protocol: Protocol) -> tuple[str, ...]:
    """The names, if this protocol can score them; SettingsError otherwise."""
    for name in names:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS) or f"; known: {', '.join(METRICS)}"
            raise SettingsError(f"there is no metric {name!r}{hint}")
        if (name == "clip" and not protocol.clip) or (name == "structure" and not protocol.structure):
            raise SettingsError(f"protocol {protocol.name} has no {name}; whole-v1 and pnp-v1 have")
    return tuple(dict.fromkeys(names))


def explain(protocol: Protocol) -> str:
    """The protocol's rules, one per line, for a reader."""
    scored = {
        "whole": "all pixels",
        "background": "both pictures multiplied by (1 - mask), zeros staying in every mean",
        "regions": "the pixels inside the mask, outside it, and all",
    }
    size = f"LANCZOS to {protocol.size} x {protocol.size}" if protocol.size else "as they are; they must be of one size"
    window = "mean of its map, mirrored at the borders" if protocol.scored == "regions" else "mean where it fits"
    smoothing = "with" if protocol.structure_antialias else "without"
    lines = [
        ("protocol", f"{protocol.name}: {protocol.title}"),
        ("source", protocol.source),
        ("pictures", f"{size}; values /255, data range {protocol.data_range:g}"),
        ("ssim, psnr, mse, lpips", scored[protocol.scored]),
        ("ssim", f"Gaussian window of sigma 1.5, 11 px, population covariance; {window}"),
        ("lpips", f"v0.1 on {protocol.lpips}, pixels in [-1, 1]"),
        ("mask", f"outermost {protocol.border} px set" if protocol.border else "as given"),
        ("clip", _named(protocol.clip, ", whole and picture * mask" if protocol.clip_edited else ", whole")),
        (
            "structure",
            _named(protocol.structure, f", pixels of 0 to {protocol.structure_range}, {smoothing} antialiasing"),
        ),
        (
            "seam",
            "mean excess, over the steps beside it, of the steps between neighbours that the mask's border separates",
        ),
        ("identical pictures", "psnr null, identical true"),
        ("no value", "null with a reason in `missing`, never NaN"),
        *(("note", note) for note in protocol.notes),
    ]
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:{width}}  {text}\n" for name, text in lines if text)


def _named(network: str | None, how: str) -> str:
    return NETWORKS[network] + how if network else "not scored"
