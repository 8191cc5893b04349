"""Files of tensors that appear whole or not at all, say themselves whether they are intact, and are read by mapping.

A safetensors file whose header carries the SHA-256 of everything else in it. Mapped tensors cost memory only where they
are read, and the system takes it back when it needs to.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsedit.errors import CacheError, DamagedError

TEMPORARY = ".tmp"
_PAGE = 4096


@dataclass(frozen=True)
class TensorFile:
    """An open file: its tensors by name, mapped, and what else was written with them. Nothing is checked yet."""

    path: Path
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]
    digest: str

    def verify(self) -> None:
        """Read everything; raises DamagedError when a bit of it is not as it was written."""
        if _digest(self.tensors, self.about) != self.digest:
            raise DamagedError(f"{self.path} is damaged: its checksum is not that of its content")

    def touch(self) -> None:
        """Bring the file's pages into memory without using them."""
        for tensor in self.tensors.values():
            _bytes(tensor)[::_PAGE].sum()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write contiguous tensors and a JSON-ready mapping to `path`, on the disk when this returns.

    Raises CacheError when the place cannot be written.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    header = {"about": json.dumps(about), "sha256": _digest(tensors, about)}
    beside = path.parent / f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}"
    try:
        mode = _made(beside)
        save_file(tensors, beside, header)
        beside.chmod(mode)  # safetensors makes files private to the user whatever the umask says
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise CacheError(f"{path} cannot be written ({error}); see sparsedit cache ls and rm for room") from error


def open_tensors(path: Path) -> TensorFile:
    """Map a file. Raises DamagedError when it is not there, is cut short, or is no such file."""
    try:
        while True:
            # safetensors opens the name twice, for header and tensors, and a writer may replace it in between: the name
            # must be this very file's afterwards, whose number no other file can get while it is held open.
            with path.open("rb") as held:
                with safe_open(path, framework="pt") as stream:
                    header = stream.metadata() or {}
                    tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
                if os.path.samestat(os.fstat(held.fileno()), path.stat()):
                    return TensorFile(path, tensors, json.loads(header["about"]), header["sha256"])
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is missing or damaged ({error})") from error


def unfinished(folder: Path) -> list[Path]:
    """Files that writers who were killed have left in a folder: this module's, and those safetensors writes first."""
    return [path for path in folder.iterdir() if path.suffix == TEMPORARY or path.name.startswith(TEMPORARY)]


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made(path: Path) -> int:
    """Make an empty file; the permissions that the umask leaves it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor).numpy().data)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
