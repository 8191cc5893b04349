"""Files on disk: which may be read, and writing that is never half done.

A pipe or a device given as a picture must not hang the program, and an interrupted run must not leave half a
file under a name that looks finished. What is inside a file is not this module's matter.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from sparsedit.errors import InputError

LEFTOVERS = f".{'[0-9a-f]' * 16}.tmp"
"""What a killed process leaves of a file it was writing, as a pattern of names."""


def file_fault(path: Path) -> str:
    """Why `path` cannot be read as a file with something in it, as the end of a sentence; "" when it can."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return f"cannot be read ({error})"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not a file"
    if not stat.S_ISREG(status.st_mode):
        return "is a pipe, a socket or a device, not a file"
    if not os.access(path, os.R_OK):
        return "cannot be read (permission denied)"
    return "" if status.st_size else "is empty"


def check_file(path: Path) -> None:
    """Raise InputError unless `path` is a regular, readable file that is not empty. Opens nothing."""
    if fault := file_fault(path):
        raise InputError(f"{path} {fault}.")


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; the file's permissions are the umask's.

    Raises InputError when the place cannot be written.
    """
    beside = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        # Not tempfile: its files are private to the user whatever the umask says.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from error
