"""What the embedded weights are: digests by which tests and figures know which model they mean.

python -m training.hashes              writes tests/demo_hashes.json; run it after every export
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from sparsedit.files import write_atomic
from training.arguments import command
from training.log import say
from training.settings import DEMO, ROOT

MODELS = DEMO.parent
EMBEDDED_BYTES, DEMO_BYTES = 60_000_000, 24_000_000  # at most: all files, and the demo model's weights
HASHES = ROOT.parent / "tests" / "demo_hashes.json"


def embedded_folders() -> list[Path]:
    """The demo model and its companions in the package, by name."""
    return sorted(path for path in MODELS.glob(f"{DEMO.name}*") if path.is_dir())


def weight_hashes(folders: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of every safetensors file in the folders, by its path from where the folders lie."""
    files = sorted((folder, path) for folder in folders for path in folder.rglob("*.safetensors"))
    return {
        path.relative_to(folder.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder, path in files
    }


def digest(path: Path) -> str:
    """Twelve digits that change with any file in a folder, or with a file."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:12]


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files in a folder whose names match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.hashes", description="Write the weights' hashes.")
    parser.add_argument("--output", type=Path, default=HASHES)
    output = parser.parse_args().output
    hashes = weight_hashes(embedded_folders())
    write_atomic(output, (json.dumps(hashes, indent=1) + "\n").encode())
    say(f"{output}: {len(hashes)} files")


if __name__ == "__main__":
    main()
