"""A recording in memory that is given up as soon as what is to come of it cannot be held."""

from __future__ import annotations

from sparsedit.errors import CacheError
from sparsedit.measure.memory import memory_left
from sparsedit.report.numbers import size_of
from sparsedit.sparse import ActivationCache
from sparsedit.sparse.cache import Step


class HeldCache(ActivationCache):
    """The steps of one stage, of which `calls` are to come in all, held as they are; what is recorded after them takes
    `later` bytes.

    A system whose memory is used up ends a process without a word, and with it all that it was to do; CUDA's allocator
    says so itself.
    """

    def __init__(self, calls: int, later: int = 0) -> None:
        super().__init__()
        self.calls = calls
        self.later = later

    def append(self, step: Step) -> None:
        """Remember one more call. Raises CacheError when the computer's memory has no room for what is to come, which
        is looked at after 1, 2, 4, 8, ... calls and after the last."""
        super().append(step)
        count = len(self.steps)
        rest = self.calls - count
        need = rest * step.nbytes + self.later
        asks = need > 0 and (not rest or count & (count - 1) == 0) and step.device.type == "cpu"
        left = memory_left() if asks else None
        if left is not None and need > left:
            self.clear()
            decoder = f", about {size_of(self.later)} for the decoder" if self.later else ""
            raise CacheError(
                f"recording takes {size_of(step.nbytes)} a step, {rest} are to come{decoder}, and {size_of(left)} of "
                "memory are left; use a smaller picture, --record-steps where the task knows it, or --cache DIR with "
                "--cache-precision int8 where it can be kept on the disk"
            )
