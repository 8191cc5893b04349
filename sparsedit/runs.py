"""A run's folder: what was asked (config.yaml), where it ran (environment.json), what came of it.

`records.jsonl` is the only source of tables; pictures lie in `images/<case>/<variant>/`. A folder is begun when
everything that can be checked beforehand has been, and never over something that is not a run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsedit.cache.lock import locked
from sparsedit.discretion import discreet
from sparsedit.errors import CacheError, InputError
from sparsedit.files import LEFTOVERS, write_atomic

_RECORDS = "records.jsonl"
_SESSIONS = "sessions.jsonl"
_PARTS = ("config.yaml", "environment.json", _RECORDS, _SESSIONS, "report.html", "images")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, at `path`."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool) -> RunFolder:
        """Begin a run at `path`.

        Raises InputError when something is there already, unless it is an earlier run and `overwrite` says that
        its parts may go; files that are no part of a run are never touched.
        """
        folder = cls(path)
        folder.check_free(overwrite=overwrite)
        try:
            for part in (*(path / name for name in _PARTS), *path.glob(LEFTOVERS)):
                shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
            path.mkdir(parents=True, exist_ok=True)
            folder.records.touch()
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}); name another folder with --output"
            ) from error
        return folder

    @classmethod
    @contextmanager
    def begun(cls, path: Path, *, overwrite: bool) -> Iterator[RunFolder]:
        """`create`, and let no other process write there meanwhile. Raises as `create` and `held`."""
        folder = cls(path)
        with ExitStack() as locks:
            if folder.records.is_file():  # a run that may be going on
                folder.check_free(overwrite=overwrite)
                locks.enter_context(folder.held())
            folder = cls.create(path, overwrite=overwrite)
            locks.enter_context(folder.held())
            yield folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process write here meanwhile. Raises InputError when one does already."""
        with ExitStack() as locks:
            try:
                locks.enter_context(locked(self.records, wait=False))
            except CacheError:
                raise InputError(
                    f"{self.path} is being written by another process; give each process its own --output"
                ) from None
            yield

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises InputError when there is none at `path`."""
        folder = cls(path)
        if not folder.records.is_file():
            raise InputError(f"{path} is not a run's folder: it has no {_RECORDS}")
        return folder

    def check_free(self, *, overwrite: bool) -> None:
        """Raise InputError when a run cannot begin here; writes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; a run needs a folder")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not self.records.is_file():
            raise InputError(f"{self.path} is not empty and not a run's folder; name another with --output")
        if not overwrite:
            raise InputError(f"{self.path} holds an earlier run; name another folder, or replace it with --overwrite")

    @property
    def records(self) -> Path:
        return self.path / _RECORDS

    @property
    def sessions(self) -> Path:
        """A line for each time a bench worked on the run: what it spent its time on."""
        return self.path / _SESSIONS

    def images(self, case: str, variant: str) -> Path:
        """The folder of one variant's pictures, made when it is not there."""
        folder = self.path / "images" / case / variant
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror})") from error
        return folder

    def write_config(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(discreet(config), sort_keys=False, allow_unicode=True)
        write_atomic(self.path / "config.yaml", text.encode())

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        text = json.dumps(discreet(environment), indent=1, allow_nan=False) + "\n"
        write_atomic(self.path / "environment.json", text.encode())
