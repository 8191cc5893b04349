"""The folder of one recording: which files it has, when it is whole, and how it comes to be forgotten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsedit.cache.fingerprint import Fingerprint
from sparsedit.cache.tensors import open_tensors, sync_folder, unfinished
from sparsedit.errors import CacheError, DamagedError
from sparsedit.files import write_atomic

_WHOLE = "recording.json"


@dataclass(frozen=True)
class Contents:
    """What a whole recording says of itself: its fingerprint's fields, the steps of each stage, when it was made, and
    the bytes of its files."""

    fingerprint: Mapping[str, Any]
    steps: Mapping[str, int]
    made: str
    nbytes: int


@dataclass(frozen=True)
class RecordingFolder:
    """A recording at `path`, being made, whole, or left half made by a process that was killed."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def lock(self) -> Path:
        return self.path.parent / ".locks" / self.key

    @property
    def picture(self) -> Path:
        return self.path / "picture.safetensors"

    def step(self, stage: str, number: int) -> Path:
        return self.path / f"{stage}-{number:04d}.safetensors"

    def texts(self, stage: str) -> Path:
        return self.path / f"{stage}-texts.safetensors"

    def contents(self) -> Contents | None:
        """What the recording says of itself; None when it is not whole."""
        try:
            return Contents(**json.loads((self.path / _WHOLE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def begin(self) -> None:
        """Make the folder, and take away what a process that was killed had left unfinished.

        Raises CacheError when it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in unfinished(self.path):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(
                f"{self.path} cannot be written ({error.strerror}); name another folder with --cache"
            ) from error

    def finish(self, fingerprint: Fingerprint, steps: Mapping[str, int], made: str) -> None:
        """Declare the recording whole: all its files are on the disk."""
        contents = Contents(fingerprint.fields, steps, made, self.nbytes)
        write_atomic(self.path / _WHOLE, (json.dumps(asdict(contents), indent=1) + "\n").encode())
        sync_folder(self.path)

    def spoil(self) -> None:
        """Declare the recording not whole, so that whoever wants it next records it again."""
        (self.path / _WHOLE).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder; `spoil` goes first, so that no half of it passes for the whole."""
        self.spoil()
        shutil.rmtree(self.path, ignore_errors=True)

    def files(self, contents: Contents) -> Iterator[Path]:
        """Every file of tensors that a whole recording has."""
        for stage, count in contents.steps.items():
            yield from (self.step(stage, number) for number in range(count))
            yield self.texts(stage)
        yield self.picture

    def faults(self, contents: Contents) -> list[str]:
        """Reads everything; a sentence for each file that is damaged or missing."""
        faults = []
        for path in self.files(contents):
            try:
                open_tensors(path).verify()
            except DamagedError as error:
                faults.append(str(error))
        return faults

    @property
    def nbytes(self) -> int:
        """Bytes of all files that are there."""
        return sum(file.stat().st_size for file in self.path.glob("*") if file.is_file())
