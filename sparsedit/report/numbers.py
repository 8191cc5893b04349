"""Numbers as they are read: three figures, a unit where one is needed, and a dash for what does not exist."""

from __future__ import annotations

NONE = "–"


def figure(value: float | None) -> str:
    """A number with three figures or a whole part: 3015, 16.5, 0.94, 0.0042."""
    if value is None:
        return NONE
    for limit, digits in ((100, 0), (10, 1), (0.1, 2)):
        if abs(value) >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.2g}"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.3g}%"


def times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{figure(ratio)}×"


def giga(count: float | None) -> str:
    return NONE if count is None else figure(count / 1e9)


def arrow(before: str, after: str) -> str:
    """Dense and sparse side by side; one dash when neither exists."""
    return NONE if before == after == NONE else f"{before}→{after}"


def size_of(count: int | None) -> str:
    """Bytes in the largest decimal unit that leaves a whole part."""
    if count is None:
        return NONE
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{figure(count / scale)} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
