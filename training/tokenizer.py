"""The demo model's tokenizers: CLIP's, with a vocabulary in which every word of the captions is one token.

    python -m training.tokenizer --to training/work/model

Words that it does not know fall back to letters, as CLIP's do to smaller pieces.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from training.arguments import command
from training.settings import CAPTION_TOKENS

WORDS = """
a an the red blue white yellow brown green orange gray grey pink purple black house cottage home cabin roof with
walls and by near on in at under below behind lake river water meadow field grass desert sand snow snowy rocky
mountain mountains hill hills tree trees pine pines leafy autumn sun moon stars sky clear cloudy cloud clouds day
sunny noon sunset dusk evening night boat sail left right side center middle landscape view scene photo painting
picture of no without to large small tall beautiful next front trunk forest door window windows winter summer big
little , .
"""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
Merge = tuple[str, str]


def byte_letters() -> list[str]:
    """The letters that stand for the 256 bytes in byte-level BPE: printable ones for themselves.

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2's `bytes_to_unicode`).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def apply_merges(word: str, ranks: dict[Merge, int]) -> list[str]:
    """The tokens of a word: neighbours are joined as long as a merge knows them, earlier merges first."""
    tokens = [*word[:-1], word[-1] + _WORD_END]
    while len(tokens) > 1:
        pairs = list(itertools.pairwise(tokens))
        first = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if first not in ranks:
            break
        joined: list[str] = []
        for token in tokens:
            # A token joins the one before it unless that was made by this very merge.
            if joined and (joined[-1], token) == first:
                joined[-1] += token
            else:
                joined.append(token)
        tokens = joined
    return tokens


def vocabulary(words: list[str]) -> tuple[dict[str, int], list[Merge]]:
    """Token ids and merges: bytes, bytes at a word's end, then what makes each word one token."""
    letters = byte_letters()
    tokens = [*letters, *(letter + _WORD_END for letter in letters)]
    ranks: dict[Merge, int] = {}
    for word in words:
        while len(parts := apply_merges(word, ranks)) > 1:
            ranks[(parts[0], parts[1])] = len(ranks)
            if parts[0] + parts[1] not in tokens:
                tokens.append(parts[0] + parts[1])
    return {token: place for place, token in enumerate([*tokens, _START, _END])}, list(ranks)


def write_tokenizer(folder: Path, padding: str) -> None:
    """Write a CLIP tokenizer's files; `padding` fills a caption up."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, merges = vocabulary(WORDS.split())
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": padding}
    special: dict[str, Any] = {
        name: {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name, token in tokens.items()
        if name != "pad_token"
    }
    (folder / "special_tokens_map.json").write_text(json.dumps({**special, "pad_token": padding}))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CAPTION_TOKENS,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
        **tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tokenizer", description="Write both tokenizers.")
    parser.add_argument("--to", type=Path, required=True, help="the pipeline's folder")
    folder = parser.parse_args().to
    write_tokenizer(folder / "tokenizer", padding=_END)
    # SDXL's second text encoder fills captions up with its token 0.
    write_tokenizer(folder / "tokenizer_2", padding="!")


if __name__ == "__main__":
    main()
