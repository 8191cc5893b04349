"""One writer per recording, in whatever process; a lock goes with the process that held it, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsedit.errors import CacheError


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`, made when it is not there and never removed: a lock is its inode.

    Raises CacheError when it cannot be made, and, unless told to `wait`, when another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise CacheError(f"{path} cannot be written ({error.strerror}); name another folder with --cache") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise CacheError(f"the recording {path.name} is being written by another process; try again") from error
        yield
