"""Records as a folder that `datasets.load_dataset` loads, offline: parquet files and a README that names their columns.

One row for each record, all columns flat. A pure function of records, and of the pictures where they are wanted.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import yaml

from sparsedit import __version__
from sparsedit.errors import InputError
from sparsedit.files import write_atomic
from sparsedit.records import Record
from sparsedit.report.bench import COLUMNS, values
from sparsedit.report.pictures import NAMES, find_pictures
from sparsedit.report.summary import stage_macs
from sparsedit.report.text import markdown_text, to_markdown

SPLIT = "test"
ROWS_PER_FILE = 500

_TEXTS = {
    "id": "hash of the work: the same in every run",
    "suite": "where the case is from",
    "case": "the case",
    "variant": "its edit",
    "edit_type": "kind of edit",
    "model": "as it was named",
    "model_revision": "the hub's commit of its weights",
    "cell": "what tells this configuration from the others of its bench",
    "configuration": "hash of model and settings",
    "track": "whether the edit was told where: mask-given, mask-derived",
    "way": "the way that was asked for",
    "ran": "the way that ran: an edit that is large runs densely",
    "task": "sdedit, inpaint, ...",
    "policy": "how the mask is grown",
    "norm": "statistics of group norms",
    "status": "ok or failed",
    "reason": "why it failed, or did not run thin",
    "prompt": "what the original shows",
    "original_prompt": "what the original ran under",
    "edit_prompt": "what the edit ran under",
    "mask_source": "where the mask is from",
    "device": "where it ran",
    "dtype": "its precision",
}
_WHOLE = {
    "width": "of the picture, pixels",
    "height": "of the picture, pixels",
    "steps_run": "denoising steps of the schedule",
    "dense_macs": "multiply-adds of the UNet, dense edit: convolutions and linears",
    "sparse_macs": "the same of this edit",
    "peak_bytes": "most memory held",
    "cache_bytes": "remembered activations",
}
_REAL = {
    "edit_ratio": "share of the pixels that were edited",
    "dense_s": "seconds of the dense edit",
    "record_s": "seconds of recording the original",
    "sparse_s": "seconds of this edit",
    "inside_psnr": "against the dense edit, in the edited pixels, dB",
    "inside_ssim": "the same, SSIM",
    "inside_lpips": "the same, LPIPS",
    "whole_psnr": "against the dense edit, whole picture, dB",
    "macs_ratio": "dense over sparse multiply-adds",
    "speedup": "dense over sparse seconds: the n-th edit",
    "first_speedup": "the same with the recording: the first edit",
    "seconds": "of this edit",
    "truth_psnr": "against what the edit should have made, inside its mask, dB",
    "truth_ssim": "the same, SSIM",
    "psnr": "against the original outside the mask, protocol pnp-v1, dB",
    "ssim": "the same, SSIM",
    "lpips": "the same, LPIPS",
    "mse": "the same, mean squared error",
    "clip": "CLIP similarity of edit and prompt",
    "clip_edited": "the same inside the mask",
    "structure": "distance of the structures of edit and original",
}
_LOGICAL = {
    "prompt_changed": "whether edit and original have different prompts",
    "identical": "whether the edit is the dense one, bit for bit, in the edited pixels",
    "outside_equal": "whether pixels outside the mask stayed, bit for bit; null where none had to",
}
_KINDS = {"string": _TEXTS, "int64": _WHOLE, "float64": _REAL, "bool": _LOGICAL}


def write_dataset(folder: Path, records: Sequence[Record], runs: Sequence[Path], *, pictures: bool) -> None:
    """Write records into `folder`, which is new or empty; with `pictures` those that the runs' folders have, a column
    for each kind.

    Raises InputError for a folder that holds something, and where it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; name a new folder with --output")
    kinds = {name: datasets.Value(kind) for kind, columns in _KINDS.items() for name in columns}
    features = datasets.Features(kinds | (dict.fromkeys(NAMES, datasets.Image()) if pictures else {}))
    parts = [records[start : start + ROWS_PER_FILE] for start in range(0, len(records), ROWS_PER_FILE)] or [[]]
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror})") from error
    for number, part in enumerate(parts):
        rows = [row(record) | (_pictures(runs, record) if pictures else {}) for record in part]
        table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        write_atomic(folder / "data" / f"{SPLIT}-{number:05}-of-{len(parts):05}.parquet", buffer.getvalue())
    write_atomic(folder / "README.md", _readme(records, pictures=pictures).encode())


def row(record: Record) -> dict[str, Any]:
    """A record as one flat row; what it does not know is None."""
    bench = record.get("bench") or {}
    scores, total, memory = (record.get(key) or {} for key in ("fidelity", "total", "memory"))
    size = record.get("size") or (None, None)
    found = {
        **{name: record.get(name) for name in (*_TEXTS, "steps_run", "edit_ratio", "prompt_changed")},
        **{name: bench.get(name) for name in ("cell", "configuration", "track")},
        "way": (bench or record)["way"],
        "ran": record["way"],
        **dict(zip(("width", "height"), size, strict=True)),
        "dense_macs": stage_macs(record, "unet", "dense"),
        "sparse_macs": stage_macs(record, "unet", "sparse"),
        **{name: memory.get(name) for name in ("peak_bytes", "cache_bytes")},
        **{name: total.get(name) for name in ("dense_s", "record_s", "sparse_s")},
        **(values(record) if record["status"] == "ok" else dict.fromkeys(COLUMNS)),
        "identical": (scores.get("inside") or {}).get("identical"),
        "outside_equal": scores.get("outside_equal"),
    }
    return {name: found[name] for columns in _KINDS.values() for name in columns}


def _pictures(runs: Sequence[Path], record: Record) -> dict[str, Mapping[str, Any] | None]:
    found = find_pictures(runs, record)
    files = {name: {"bytes": path.read_bytes(), "path": None} for name, path in found.items()}
    return {name: files.get(name) for name in NAMES}


def _readme(records: Sequence[Record], *, pictures: bool) -> str:
    """The card: where the files are, for the loader, and what the columns mean, for its reader."""
    suites, models = (", ".join(dict.fromkeys(record[key] for record in records)) for key in ("suite", "model"))
    files = {"split": SPLIT, "path": f"data/{SPLIT}-*.parquet"}
    head = {"pretty_name": "sparsedit records", "configs": [{"config_name": "default", "data_files": [files]}]}
    table = to_markdown(("column", "type", "meaning"), [list(line) for line in _lines(pictures=pictures)])
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# Records of sparsedit {__version__}\n"
        f"{len(records)} edits, suite {markdown_text(suites)}, model {markdown_text(models)}; one row each.\n\n"
        f"```python\nload_dataset('FOLDER', split='{SPLIT}')\n```\n\n{table}"
    )


def _lines(*, pictures: bool) -> Iterator[tuple[str, str, str]]:
    known = ((name, kind, said) for kind, columns in _KINDS.items() for name, said in columns.items())
    return itertools.chain(known, ((name, "image", "") for name in NAMES) if pictures else ())
