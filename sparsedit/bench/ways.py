"""The ways an edit is made in a bench, and the settings that each of them heeds. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedit.errors import SettingsError, did_you_mean
from sparsedit.settings import Settings

DENSE = "dense"
STEP_SKIP = "step-skip"
CROP = "crop"
THIN = ("alongside", "warm", "cold")
WAYS = (DENSE, *THIN, STEP_SKIP, CROP)
"""`step-skip` and `crop` are the controls: what anyone can do without a sparse engine. The first makes some dense steps
of the schedule, the second edits a part of the picture densely and puts it back."""

_CACHE = ("cache_budget", "cache_precision", "cache_rows")
# Which ways a setting is for; the others leave it out, or it would contradict them.
_ONLY_FOR = {"coarse": ("cold",), "record_steps": ("warm",), "fidelity": ("cold", "warm")} | dict.fromkeys(
    _CACHE, ("warm",)
)


def parse_ways(text: str) -> tuple[str, ...]:
    """Ways as typed, `dense,warm,cold`, in the order of `WAYS`. Raises SettingsError for an unknown one."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    return check_ways(words)


def check_ways(words: Sequence[str]) -> tuple[str, ...]:
    """The ways named, each once, in the order of `WAYS`. Raises SettingsError for an unknown one and for none."""
    for word in words:
        if word not in WAYS:
            hint = did_you_mean(word, WAYS) or f"; there are {', '.join(WAYS)}"
            raise SettingsError(f"unknown way {word!r}{hint}")
    if not words:
        raise SettingsError(f"no way is named; there are {', '.join(WAYS)}")
    return tuple(way for way in WAYS if way in words)


def settings_of(way: str, settings: Settings) -> Settings:
    """The settings as one way takes them: without those of other ways. A control's way is that of no engine."""
    said = {key: value for key, value in settings.said().items() if way in _ONLY_FOR.get(key, WAYS)}
    return Settings.model_validate(said | {"way": way if way in THIN else "alongside"})
