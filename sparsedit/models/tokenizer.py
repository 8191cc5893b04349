"""CLIP's tokenizer without a download.

Every Stable Diffusion model splits its prompts by the same vocabulary, so it is embedded once; a model says only how
it pads. Original-layout files, which hold no tokenizer, and random weights use it.
"""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer

from sparsedit.models.folder import read_json
from sparsedit.models.presets.preset import PACKAGE

VOCABULARY = PACKAGE / "configs" / "clip"
OWN_VOCABULARY = ("tokenizer.json", "vocab.json")


def has_vocabulary(folder: Path) -> bool:
    """Whether `folder` holds a whole tokenizer, and not only how it pads."""
    return any((folder / name).is_file() for name in OWN_VOCABULARY)


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, padding as `tokenizer_config.json` in `folder` says; `ModelError` without that file."""
    options = read_json(folder / "tokenizer_config.json")
    return CLIPTokenizer.from_pretrained(str(VOCABULARY), **options, local_files_only=True)
