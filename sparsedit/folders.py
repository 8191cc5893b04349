"""Where the program keeps what it can make again: nothing lost but time when the folder goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "SPARSEDIT_CACHE"


def cache_folder(variables: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """The user's folder for this program's caches; it need not exist yet.

    `SPARSEDIT_CACHE` where that is set, else where the system keeps caches: `$XDG_CACHE_HOME` or `~/.cache` on Linux
    (XDG Base Directory Specification), `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
    """
    if own := variables.get(VARIABLE):
        return Path(own).expanduser()
    home = Path.home()
    if system == "darwin":
        return home / "Library" / "Caches" / "sparsedit"
    if system == "win32":
        return Path(variables.get("LOCALAPPDATA") or home / "AppData" / "Local") / "sparsedit" / "Cache"
    # The specification has relative paths ignored.
    said = variables.get("XDG_CACHE_HOME", "")
    return (Path(said) if Path(said).is_absolute() else home / ".cache") / "sparsedit"
