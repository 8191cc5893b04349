"""Whether a call fits the step that was recorded for it: size, precision, place and timestep."""

from __future__ import annotations

from torch import Tensor

from sparsedit.errors import EngineError
from sparsedit.sparse.cache import Step


def check_fit(step: Step, x: Tensor, timestep: Tensor | None) -> None:
    """Raise EngineError for an input [B, C, H, W] of another size, precision or device, and a timestep too many."""
    if (x.shape[0], x.shape[2], x.shape[3]) != (step.batch, *step.size):
        raise EngineError(
            f"the recorded input was a batch of {step.batch} at {step.size[1]}x{step.size[0]}, this one is "
            f"a batch of {x.shape[0]} at {x.shape[3]}x{x.shape[2]}; record the original again at this size"
        )
    if (x.dtype, x.device) != (step.dtype, step.device):
        raise EngineError(
            f"the recorded input was {step.dtype} on {step.device}, this one is {x.dtype} on {x.device}; "
            "record the original again with the model as it is now"
        )
    if (timestep is None) != (step.timestep is None):
        raise EngineError("a timestep was given to only one of the recorded and the sparse call")


def check_timestep(expected: Tensor, timestep: Tensor) -> None:
    """Raise EngineError for a call at another timestep than its recorded step; waits for a GPU."""
    if expected.is_meta:
        return
    now, then = (t.flatten().double().cpu() for t in (timestep, expected))
    if bool((now != then).any()):
        raise EngineError(
            f"the recorded step ran at timestep {expected.tolist()}, this call at {timestep.tolist()}; "
            "use the same scheduler, steps and strength"
        )
