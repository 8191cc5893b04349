"""PIE-Bench's brackets: `[ ]` around the words in which the two prompts of an edit differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

# A word or a sign with the space before it, so that tokens put together are the text again.
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")
# What joins an enumeration moves when a member comes or goes; it is no change by itself.
_JOINTS = (",", "and")


def strip_brackets(prompt: str) -> str:
    """The prompt without its brackets; the words inside them stay."""
    return prompt.replace("[", "").replace("]", "")


def bracketed(source: str, target: str) -> tuple[str, str]:
    """Both prompts with brackets around their changed words; stripped of them they are the same again."""
    before, after = _TOKEN.findall(source), _TOKEN.findall(target)
    matcher = SequenceMatcher(None, _words(before), _words(after), autojunk=False)
    marked_source, marked_target = "", ""
    for change, i, i_end, j, j_end in matcher.get_opcodes():
        mark = _plain if change == "equal" else _mark
        marked_source += mark(before[i:i_end])
        marked_target += mark(after[j:j_end])
    return marked_source, marked_target


def _words(tokens: Sequence[str]) -> list[str]:
    return [token.strip() for token in tokens]


def _plain(tokens: Sequence[str]) -> str:
    return "".join(tokens)


def _mark(tokens: Sequence[str]) -> str:
    """The tokens with brackets around them, but not around spaces and joints at either end."""
    changed = [place for place, word in enumerate(_words(tokens)) if word not in _JOINTS]
    if not changed:
        return _plain(tokens)
    first, last = changed[0], changed[-1] + 1
    inner = _plain(tokens[first:last])
    words = inner.lstrip()
    space = inner[: len(inner) - len(words)]
    return f"{_plain(tokens[:first])}{space}[{words}]{_plain(tokens[last:])}"
