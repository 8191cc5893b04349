"""Why an edit failed, where a run can go on: for a reason that its user can understand, or for want of memory."""

from __future__ import annotations

import gc

import torch

from sparsedit.engines.editors import Editors
from sparsedit.errors import SparseditError
from sparsedit.measure.memory import ran_out

FAILURES = (SparseditError, MemoryError, RuntimeError)
"""All that `reason_of` may have a reason for; torch's own kinds of exhaustion are RuntimeErrors."""

OUT_OF_MEMORY = (
    "out of memory; use a smaller picture, --dtype bfloat16, --offload auto, or for recordings --cache DIR, "
    "--cache-precision int8 or --record-steps"
)


def reason_of(error: Exception) -> str | None:
    """What a record says of a failure; None for one that is a defect, and ends the run."""
    if isinstance(error, SparseditError):
        return str(error)
    return OUT_OF_MEMORY if ran_out(error) else None


def free(editors: Editors) -> None:
    """Give back what was remembered of originals, and what torch keeps for later.

    To be called when the exception is gone, whose traceback holds whatever the failed call had made.
    """
    editors.forget()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
