"""A benchmark that ends in time: what is left, and work that is broken off when it takes longer than it may."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TimeIsUpError(BaseException):
    """Work was broken off. Not an Exception, so that nothing on the way (a compiler, say) takes it for its own."""


class SkippedError(Exception):
    """A part that is not run; the message says why."""


class Budget:
    """So many seconds from now."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def left(self) -> float:
        return self._end - self._now()

    def needs(self, seconds: float, what: str) -> None:
        """Raise SkippedError when there is not that much left."""
        left = self.left()
        if left < seconds:
            raise SkippedError(
                f"{what} takes about {seconds:.0f} s and {max(left, 0):.0f} s were left; raise --minutes"
            )


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Break the block off with SkippedError when it takes longer; on the main thread of a Unix process."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeIsUpError:
        raise SkippedError(f"{what} took longer than the {seconds:.0f} s it was given; raise --minutes") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
