"""diffusers and transformers without their bars and log lines, for as long as a model is being loaded.

What they would report (weights that are missing, a hub that does not answer) the caller checks and raises
in one sentence, so that nothing is lost by not printing it in forty lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def silence() -> Iterator[None]:
    """Turn off loading bars and log lines of both libraries; puts back what was set before."""
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in libraries]
    try:
        for library in libraries:
            library.disable_progress_bar()
            library.set_verbosity(library.CRITICAL)
        yield
    finally:
        for library, (bars, verbosity) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
