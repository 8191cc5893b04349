"""What files hold, as one word: so that a run is not continued on other data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sparsedit.errors import InputError


def digest(paths: Iterable[Path]) -> str:
    """A hash of the contents of files, in this order. Raises InputError for one that cannot be read."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    return whole.hexdigest()[:16]
