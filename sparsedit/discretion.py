"""What files that are passed on do not tell: where their maker's home is, and the keys to their accounts.

Records, configurations and reports quote settings and errors, which may name both.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

# Keys as Hugging Face writes them, and a user's name and password in an address.
_SECRETS = (
    (re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}"), r"\1_***"),
    (re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+@"), "***@"),
)

_MARKS = ("hf_", "api_org_", "://")  # each secret has one of them


def without_secrets(text: str) -> str:
    """The text with every key and password made unreadable."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def is_discreet(text: str) -> bool:
    """Whether `discreet` surely has nothing to change in what a JSON text says: a look that costs next to nothing."""
    home = json.dumps(os.path.expanduser("~"), ensure_ascii=False)[1:-1]
    return (home == "/" or home not in text) and not any(mark in text for mark in _MARKS)


def discreet(value: Any) -> Any:
    """A JSON-ready value whose texts hold no secrets, and `~` for the user's home folder; keys stay as they are."""
    if isinstance(value, str):
        return _without_home(without_secrets(value))
    if isinstance(value, Mapping):
        return {key: discreet(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [discreet(each) for each in value]
    return value


def _without_home(text: str) -> str:
    home = os.path.expanduser("~")
    if home == "/" or home not in text:
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
