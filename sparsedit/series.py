"""Consecutive edits: what the next one begins with, once an edit's own activations are in the recording.

A series has one recording, and it changes: after a kept edit it is that of the pictures painted so far, and the result
is the picture that the next edit is painted on. For `sdedit` these are two. The model was given strokes, and goes on
being given all of them with the same noise, as one dense edit of them would be; what came of them is what is seen.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sparsedit.cache.shelf import Keeping
from sparsedit.control import control_map
from sparsedit.errors import SettingsError
from sparsedit.plan import DENOISING, Plan, Request
from sparsedit.results import Result
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import SitePyramid


def following(request: Request, result: Result) -> Request:
    """The request of the edit after `result`, whose picture it starts from and whose prompt goes on."""
    plan = result.plan
    if request.task == "control":  # pictures are made of maps, so it is these that are edited
        return replace(request, original=plan.picture, prompt=plan.prompt, control=plan.control)
    if request.task == "inpaint":
        control = None if request.control is None else control_map(result.picture)
        return replace(request, original=result.picture, prompt=plan.prompt, control=control)
    return replace(request, original=result.picture, painted=plan.picture, prompt=plan.prompt, control=plan.control)


def answering(request: Request, plan: Plan, latest: Tensor | None, policy: MaskPolicy) -> Plan:
    """The plan of a series' edit with the place of the edit before, `latest` (bool [H, W]), denoised again along with
    its own, for `sdedit`: what was made there knew nothing of this one. What may change in the picture stays as it was.
    """
    if latest is None or request.task != "sdedit":
        return plan
    sites = SitePyramid.from_mask(request.frame.pad_mask(plan.hole | latest), level_dilation=policy.level_dilation)
    return replace(plan, stage_sites={**plan.stage_sites, **dict.fromkeys(DENOISING, sites)})


def check_keepable(keeping: Keeping) -> None:
    """Raise SettingsError for recordings that a later edit cannot go on from."""
    if keeping.rows == "halo":
        raise SettingsError(
            "a series needs every row of its recording, and a halo keeps those around known masks: "
            "leave out --cache-rows halo"
        )
