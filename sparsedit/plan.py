"""From an edit to what is computed for it: the picture that goes in, its mask, the sites that follow.

Tensors in and out of pixels only; no model is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from sparsedit.control import control_map, moved
from sparsedit.errors import InputError
from sparsedit.frame import Frame
from sparsedit.images import to_tensor
from sparsedit.masks import difference, edit_ratio, enclosed, feather
from sparsedit.schedule import Schedule
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import SitePyramid, dilate

Picture = Image.Image | Tensor
"""An RGB image, or a float tensor [1, 3, H, W] in [-1, 1]."""

DENOISING = ("controlnet", "unet", "refiner")
"""The stages that work on latents; they share their sites."""

SUSPICIOUS = 0.2
"""Share of a picture from which a difference may be noise; a drawn mask that leaves less than this may be inverted."""


@dataclass(frozen=True)
class Request:
    """An original and how it is processed; every edit of it shares these.

    `control` is the original's map for a ControlNet, where there is one, and `control_scale` how much that counts;
    `refine_from` the share of the way down the noise from which a refiner goes on, where there is one. A `generated`
    original is made from noise; before that its tensor says no more than its size. For task control the original is
    a photo whose edges are the map, or with `from_map` the map itself. The model takes sides that are multiples of
    `multiple`; pictures of others are padded where it is called. In a series the original is what came of the edits
    before, and `painted` the strokes it came of, where the model is given these.
    """

    original: Tensor
    prompt: str
    negative: str
    task: str
    schedule: Schedule
    seed: int
    control: Tensor | None = None
    control_scale: float = 0.5
    refine_from: float | None = None
    generated: bool = False
    from_map: bool = False
    multiple: int = 1
    painted: Tensor | None = None

    @property
    def frame(self) -> Frame:
        height, width = self.original.shape[-2:]
        return Frame((height, width), self.multiple)

    @property
    def given(self) -> Tensor:
        """What the model is given as the original."""
        return self.original if self.painted is None else self.painted


@dataclass(frozen=True)
class Edit:
    """One edit: an edited picture, a mask (bool [H, W]), or both, and its prompt when it differs.

    Or a canvas that moves: `by` pixels to the right and down, or turned by an `angle` in degrees, counterclockwise.
    `upon` is what the edited picture was painted on, where that is not the original: in a series, whose results nobody
    has seen yet when its pictures are painted. What differs from it, and is not in the series yet, is the edit.
    """

    edited: Picture | None = None
    mask: Tensor | None = None
    prompt: str | None = None
    by: tuple[int, int] | None = None
    angle: float | None = None
    upon: Picture | None = None


@dataclass(frozen=True)
class Plan:
    """An edit made ready: what goes in, where it was edited (`changed`), what is computed (`hole`), what may change
    (`blend`); masks are bool [H, W]. `stage_sites` holds the active sites of every stage but text. `control` is the
    picture's map for a ControlNet, and `control_changed` where it is not the original's, which is in the hole too.
    `hint` is what the mask looks like by mistake, and what to do then."""

    picture: Tensor
    prompt: str
    changed: Tensor
    hole: Tensor
    blend: Tensor
    stage_sites: Mapping[str, SitePyramid]
    edit_ratio: float
    mask_source: str
    control: Tensor | None = None
    control_changed: Tensor | None = None
    hint: str | None = None

    @property
    def sites(self) -> SitePyramid:
        """The active sites of the UNet."""
        return self.stage_sites["unet"]

    def cells(self, scale: int) -> Tensor:
        """The hole [1, H, W] in whole cells of `scale` pixels, so that pipelines and sites mean the same ones.

        H and W are those of the sites: padded where the model needs it.
        """
        height, width = self.sites.size
        if self.sites.empty:
            return torch.zeros(1, height, width)
        level = self.sites.level((height // scale, width // scale))
        cells = (level.position >= 0).view(level.size).float()
        return cells.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None]


def plan_edit(request: Request, edit: Edit, policy: MaskPolicy) -> Plan:
    """What an edit changes: its mask, the sites that follow, and the picture that goes in.

    With a mask given, strokes of the edited picture outside it are not taken over; nor, in a series, what is no stroke.
    Raises InputError when edit and original differ in size, or when what the task needs is missing.
    """
    original, task = request.original, request.task
    edited, upon = (None if each is None else as_tensor(each) for each in (edit.edited, edit.upon))
    for what, each in (("the edited picture", edited), ("the picture it was painted on", upon)):
        if each is not None and each.shape != original.shape:
            raise InputError(_size_sentence(what, each.shape[-2:], original))
    if edit.mask is not None and edit.mask.shape != original.shape[-2:]:
        raise InputError(_size_sentence("the mask", edit.mask.shape, original))
    if edited is None and (task in ("sdedit", "control") or edit.mask is None):
        drawn = task in ("sdedit", "control")
        needed = "an edited picture" if drawn else "a mask, or an edited picture whose difference is one"
        raise InputError(f"{task} needs {needed}")
    picture = request.given if edited is None else edited
    changed, hint = _changed(request, edit, original if upon is None else upon, picture, policy.threshold)
    if edit.mask is not None or upon is not None or request.painted is not None:
        picture = torch.where(changed, picture, request.given)
    control, control_changed = _control(request, picture, changed)
    if task == "control":
        changed = torch.zeros_like(changed) if control_changed is None else control_changed
        hole = enclosed(dilate(changed, policy.grow))  # grown first: lines have gaps
    else:
        hole = dilate(changed if control_changed is None else changed | control_changed, policy.grow)
    return Plan(
        picture=picture,
        prompt=request.prompt if edit.prompt is None else edit.prompt,
        changed=changed,
        hole=hole,
        blend=hole if edit.mask is None else edit.mask,
        stage_sites=stage_sites(request.frame.pad_mask(hole), policy),
        edit_ratio=edit_ratio(changed),
        mask_source="difference" if edit.mask is None else "user",
        control=control,
        control_changed=control_changed,
        hint=hint,
    )


def _changed(
    request: Request, edit: Edit, before: Tensor, picture: Tensor, threshold: float
) -> tuple[Tensor, str | None]:
    """Where an edit is, as drawn or as the difference from `before`, and what it looks like by mistake."""
    if edit.mask is not None:
        changed, hint = edit.mask, _inverted(edit.mask)
    else:
        changed = difference(before, picture, threshold)
        hint = _noisy(before, picture, edit_ratio(changed), threshold)
        if edit.upon is not None:
            changed = changed & difference(request.given, picture, threshold)
    # The masks of prompt edits may be found, and be large for good reasons.
    return changed, None if request.task == "prompt" else hint


def _inverted(mask: Tensor) -> str | None:
    """What to do about a drawn mask that may be the wrong way round."""
    covered = edit_ratio(mask)
    said = f"the mask covers {covered:.0%}; white is what is edited, so turn it round if that is what should stay"
    return said if covered > 1 - SUSPICIOUS else None


def _noisy(before: Tensor, picture: Tensor, ratio: float, threshold: float) -> str | None:
    """What to do about a difference of `ratio` of the pixels that is nearly all a compression's noise."""
    if ratio <= SUSPICIOUS:
        return None
    for higher in (threshold * factor for factor in (2, 4, 8)):
        left = edit_ratio(difference(before, picture, higher))
        if left < ratio / 4:
            return (
                f"{ratio:.0%} of the pixels differ, most of them so little that it may be a compression's noise: "
                f"--threshold {higher:.3g} leaves {left:.1%}"
            )
    return None


def _control(request: Request, picture: Tensor, changed: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The edit's map for a ControlNet, and where it differs from the original's: edges may begin far from a stroke.

    Differences below the threshold, which a file's compression leaves everywhere, draw no edges of their own.
    """
    if request.control is None or not changed.any():
        return request.control, None
    shown = torch.where(changed, picture, request.given)
    control = shown / 2 + 0.5 if request.from_map else control_map(shown)
    return control, moved(control, request.control)


def stage_sites(hole: Tensor, policy: MaskPolicy) -> dict[str, SitePyramid]:
    """The sites of every stage. The VAE's reach further: what changes spreads a little at each of its resolutions."""
    sites = SitePyramid.from_mask(hole, level_dilation=policy.level_dilation)
    around = SitePyramid.from_mask(dilate(hole, policy.vae_margin), level_dilation=policy.level_dilation)
    return {"encoder": around} | dict.fromkeys(DENOISING, sites) | {"decoder": around}


def plan_nothing(request: Request) -> Plan:
    """The original as a plan in which nothing changes."""
    nothing = torch.zeros(request.original.shape[-2:], dtype=torch.bool)
    sites = dict.fromkeys(("encoder", *DENOISING, "decoder"), SitePyramid(request.frame.pad_mask(nothing)))
    return Plan(request.given, request.prompt, nothing, nothing, nothing, sites, 0.0, "none", control=request.control)


def composite(base: Tensor, generated: Tensor, mask: Tensor, feather_px: int) -> Tensor:
    """`generated` where the mask (bool [H, W]) is, blended over `feather_px` at its inner border, else `base`.

    Outside the mask the result's bits are those of `base`.
    """
    if not feather_px:
        return torch.where(mask, generated, base)
    alpha = feather(mask, feather_px)
    return torch.where(mask, base + alpha * (generated - base), base)


def as_tensor(picture: Picture) -> Tensor:
    """A picture as a float tensor [1, 3, H, W] in [-1, 1]. Raises InputError for a tensor of another kind."""
    if isinstance(picture, Image.Image):
        return to_tensor(picture)
    if picture.ndim != 4 or picture.shape[:2] != (1, 3) or not picture.is_floating_point():
        raise InputError(f"a picture must be a float tensor [1, 3, H, W] in [-1, 1], not {list(picture.shape)}")
    return picture.float()


def _size_sentence(what: str, size: Sequence[int], original: Tensor) -> str:
    return f"{what} is {size[1]}x{size[0]}, the original {original.shape[3]}x{original.shape[2]}; they must be the same"
