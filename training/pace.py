"""How long one picture takes, as a user waits for it: text encoders, every step, decoder.

Only a quiet machine tells; the load averages at the start are kept with the samples so that a busy one is seen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from training.settings import PaceSettings

_PROMPT = "a red house with a brown roof on the left and pine trees by a lake in a meadow under snowy mountains by day"


def measure(pipe: Any, settings: PaceSettings, now: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Seconds of each picture at the model's own size, after `settings.warm_up` that are not counted."""
    load = list(os.getloadavg())
    seconds = []
    for number in range(settings.warm_up + settings.pictures):
        began = now()
        pipe(
            _PROMPT,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=torch.Generator().manual_seed(number),
        )
        seconds.append(now() - began)
    return {"seconds": seconds[settings.warm_up :], "load_averages": load, "threads": torch.get_num_threads()}
