"""The controls of every table: edits made without the sparse engine that cost less than dense ones too.

*Step-skip* makes some steps of the schedule densely, of the same noise levels and under the same noise. *Crop* edits
the region around the mask densely, at its own resolution, and puts it back: crop-and-stitch. Its region is the one of
diffusers' `padding_mask_crop`, which would then enlarge it to the whole picture's size and cost as much as that.
"""

from __future__ import annotations

import math
from dataclasses import replace

from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import Counter
from sparsedit.engines.editors import request_of
from sparsedit.errors import InputError
from sparsedit.plan import Edit, Request, as_tensor, plan_edit
from sparsedit.results import Result
from sparsedit.settings import Settings
from sparsedit.skipping import steps_kept

CROP_PADDING = 32
"""Pixels around the mask that a crop shows the model, as in diffusers' examples."""

FEWEST = 2


def steps_of_a_cold_edit(counter: Counter, editor: SparseEditor, request: Request, edit: Edit, coarse: int) -> int:
    """The dense steps that cost the UNet what a cold edit with `coarse` of them does, rounded up, in multiply-adds."""
    unet = counter.stages(editor, request)["unet"]
    sites = plan_edit(request, edit, editor.policy).sites
    calls = request.schedule.calls
    share = 0.0 if sites.empty else unet.cost(sites).macs / unet.cost().macs
    return min(max(math.ceil(coarse + calls * share), FEWEST), calls)


def step_skip(editor: SparseEditor, request: Request, edit: Edit, count: int) -> tuple[Request, Result]:
    """The edit with `count` dense steps of its schedule -> the request that ran, and the result.

    Raises SettingsError for a number of steps that is none, and for a scheduler whose steps cannot be skipped.
    """
    kept = steps_kept(editor.stages.pipe.scheduler, count, request.schedule.calls)
    ran = replace(request, schedule=replace(request.schedule, kept=kept))
    return ran, replace(editor.dense(ran, edit), way="step-skip")


def crop(editor: SparseEditor, request: Request, edit: Edit, settings: Settings) -> tuple[Request, Result]:
    """The edit made on a crop of its picture, and put back -> the request that ran, and the result.

    Outside the mask the result keeps the photo, in every task. Raises InputError where nothing is edited.
    """
    plan = plan_edit(request, edit, editor.policy)
    if plan.sites.empty:
        raise InputError("nothing is edited, so there is nothing to crop")
    box = crop_box(plan.hole, editor.stages.scale)
    ran = request_of(editor, settings, _part(request.original, box), request.prompt, request.seed)
    own = Edit(
        edited=None if edit.edited is None else _part(as_tensor(edit.edited), box),
        mask=None if edit.mask is None else _part(edit.mask, box),
        prompt=edit.prompt,
    )
    part = editor.dense(ran, own, ran.original)
    whole = _put(part.picture, box, request.original)
    generated = _put(part.generated, box, request.original)
    return ran, replace(part, picture=whole, generated=generated, mask=plan.blend, plan=plan, way="crop")


def crop_box(hole: Tensor, scale: int) -> tuple[slice, slice]:
    """Rows and columns of the region around a hole (bool [H, W]): of the picture's aspect, in whole latents."""
    height, width = hole.shape
    mask = Image.fromarray(hole.numpy())
    left, top, right, bottom = VaeImageProcessor.get_crop_region(mask, width, height, CROP_PADDING)
    return _whole(top, bottom, scale), _whole(left, right, scale)


def _whole(first: int, end: int, scale: int) -> slice:
    return slice(first // scale * scale, math.ceil(end / scale) * scale)


def _part(picture: Tensor, box: tuple[slice, slice]) -> Tensor:
    return picture[(..., *box)]


def _put(part: Tensor, box: tuple[slice, slice], picture: Tensor) -> Tensor:
    whole = picture.clone()
    whole[(..., *box)] = part
    return whole
