"""What can go wrong, in sentences.

Every error a user can cause is a `SparseditError` whose text says what is wrong, with which value, and what
would work; the command line prints that text alone and leaves with `exit_code`. Bugs are not caught here:
they keep their own type and their traceback.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

# Where a value stands inside a document: keys and list positions from the top.
Location = tuple[int | str, ...]


class SparseditError(Exception):
    """The family; `exit_code` is what the process returns when one reaches the command line."""

    exit_code: ClassVar[int] = 2


class InputError(SparseditError):
    """A file or a picture that cannot be used, or a place that cannot be written."""


class ManifestError(SparseditError):
    """A manifest that is not what it should be; names the place in the file."""


class SettingsError(SparseditError):
    """A setting that is unknown, of the wrong type or out of range."""


class ModelError(SparseditError):
    """A model that is unknown, missing or of a kind that cannot be used."""


class EngineError(SparseditError):
    """The sparse engine was asked for something it cannot do."""


class CacheError(SparseditError):
    """Remembered activations that do not fit what is asked of them."""


class DamagedError(CacheError):
    """A file of a recording that is not what was written, or is gone."""


class ThresholdError(SparseditError):
    """Everything ran, and a required quality was not reached."""

    exit_code = 3


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a sentence about an unknown `word`: "; did you mean 'x'?", or "" when nothing is near."""
    near = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def dotted(location: Location) -> str:
    """The location as a path: ("cases", 0, "id") is `cases[0].id`."""
    text = ""
    for part in location:
        if isinstance(part, str) and re.fullmatch(r"[\w-]{1,60}", part):
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text or "the top level"


def sentences(error: ValidationError, model: type[BaseModel], place: Callable[[Location], str] = dotted) -> list[str]:
    """One sentence for each fault that pydantic found while validating `model`.

    `place` says where a location is, for instance with its line in a file.
    """
    return [f"{place(detail['loc'])}: {_problem(detail, model)}" for detail in error.errors()]


def shown(value: object) -> str:
    """The value as the user typed it in YAML, more or less, and never long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = limits.maxlong = 200
    return limits.repr(value)


_MUST_BE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than": "less than {lt:.15g}",
    "less_than_equal": "at most {le:.15g}",
    "literal_error": "{expected}",
}


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys_at(model, detail["loc"][:-1])
        hint = did_you_mean(str(detail["loc"][-1]), known)
        return "unknown key" + (hint or f"; known here: {', '.join(known)}")
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        return f"must have at least {context['min_length']}, has {len(value)}"
    if kind == "too_long":
        return f"must have at most {context['max_length']}, has {len(value)}"
    if kind not in _MUST_BE:
        return f"{detail['msg']}, not {shown(value)}"
    quote = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
    return f"must be {_MUST_BE[kind].format(**context)}, not {shown(value)}{quote}"


def _keys_at(model: type[Any], location: Location) -> list[str]:
    """The keys that the (sub)model at `location` knows, found by following the annotations."""
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return list(model.model_fields)
