"""What a training tells: lines for people on stderr, and one JSON object per line for curves and records."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sparsedit.files import write_atomic


def say(text: str) -> None:
    """A line of progress on stderr, at once also when that is a file."""
    print(text, file=sys.stderr, flush=True)


class Log:
    """Rows of a training, each with its `step`; the file grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def begin(self, header: dict[str, Any]) -> None:
        """Start the file anew with one row that says what is run and on which machine."""
        write_atomic(self.path, _line({"step": 0, **header}))

    def resume(self, step: int) -> None:
        """Drop the rows after `step`: a killed run had gone on past its last checkpoint."""
        kept = [row for row in read_log(self.path) if row["step"] <= step]
        write_atomic(self.path, b"".join(map(_line, kept)))

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("ab") as stream:
            stream.write(_line(row))


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a log; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()
