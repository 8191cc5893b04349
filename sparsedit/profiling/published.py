"""Our counts for the rows of published tables: the same model, size and batch, on the meta device, nothing timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsedit.masks import difference
from sparsedit.measure.twin import Cost, Twin
from sparsedit.models.loading import empty_pipeline
from sparsedit.models.presets import PRESETS
from sparsedit.plan import as_tensor, stage_sites
from sparsedit.profiling.subjects import Subject
from sparsedit.published import PublishedRow
from sparsedit.settings import MaskPolicy
from sparsedit.sparse import dilate
from sparsedit.stages import Stages

STAGES = ("encoder", "unet", "decoder")


@dataclass(frozen=True)
class Beside:
    """A published row and our count for it; `reason` says why there is none."""

    row: PublishedRow
    ours: Cost | None = None
    reason: str | None = None


def case_masks(subjects: Sequence[Subject]) -> dict[str, Tensor]:
    """What each case edits, bool [H, W] by the case's id, before any growth."""
    masks = {}
    for subject in subjects:
        edit, threshold = subject.edit, subject.settings.mask_policy().threshold
        if edit.mask is not None:
            masks[subject.case] = edit.mask
        elif edit.edited is not None:
            masks[subject.case] = difference(subject.original, as_tensor(edit.edited), threshold)
    return masks


def count_rows(
    rows: Sequence[PublishedRow],
    masks: Mapping[str, Tensor],
    policy: MaskPolicy,
    tell: Callable[[str], None] = lambda words: None,
) -> Iterator[Beside]:
    """Each row with our count, where the model is one of ours and its mask is at hand."""
    twins: dict[tuple[str, tuple[int, int]], Twin] = {}
    for row in rows:
        if reason := _missing(row, masks):
            yield Beside(row, reason=reason)
            continue
        assert row.preset is not None  # or it would be missing
        assert row.size is not None
        tell(f"counting {row.model}, {row.case}, {row.stage}")
        key = (row.preset, row.size)
        if key not in twins:
            width, height = row.size
            twins[key] = Twin(Stages(empty_pipeline(row.preset)), height, width, _unet_batch(rows, key))
        if row.case == "dense":
            yield Beside(row, twins[key].dense(row.stage))
        else:
            sites = stage_sites(dilate(masks[row.case], policy.grow), policy)
            yield Beside(row, twins[key].thin(row.stage, sites[row.stage]))


def _missing(row: PublishedRow, masks: Mapping[str, Tensor]) -> str | None:
    """Why a row cannot be counted."""
    if row.gmacs is None:
        return "no multiply-adds published"
    if row.preset not in PRESETS:
        return "no model of ours"
    if row.stage not in STAGES or row.size is None:
        return "no stage of ours"
    if row.case == "dense":
        return None
    if row.case not in masks:
        return f"the pictures of case {row.case} are not at hand"
    if tuple(masks[row.case].shape) != (row.size[1], row.size[0]):
        height, width = masks[row.case].shape
        return f"case {row.case} is {width}x{height} here"
    return None


def _unet_batch(rows: Sequence[PublishedRow], key: tuple[str, tuple[int, int]]) -> int:
    """The batch of the table's UNet calls; encoder and decoder are counted for one picture, as the tables have it."""
    batches = (row.batch for row in rows if (row.preset, row.size) == key and row.stage == "unet" and row.batch)
    return next(batches, 1)
