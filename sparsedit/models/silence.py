"""diffusers, transformers and the hub without their bars and log lines, for as long as a model is being loaded.

What they would report (weights that are missing, a hub that does not answer) the caller checks and raises
in one sentence, so that nothing is lost by not printing it in forty lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


@contextmanager
def silence(*, bars: bool = False) -> Iterator[None]:
    """Turn off loading bars and log lines of the libraries, the hub's bars only without `bars`.

    What was set before is put back.
    """
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries]
    hub_silent = are_progress_bars_disabled()
    try:
        for library in libraries:
            library.disable_progress_bar()
            library.set_verbosity(library.CRITICAL)
        (enable_progress_bars if bars and not hub_silent else disable_progress_bars)()
        yield
    finally:
        for library, (shown, verbosity) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if shown:
                library.enable_progress_bar()
        (disable_progress_bars if hub_silent else enable_progress_bars)()
