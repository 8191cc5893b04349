"""Thresholds that fail a comparison: `psnr<30` fails when the mean PSNR is below 30 dB."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass

from sparsedit.errors import SettingsError

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TEXT = re.compile(r"\s*(?P<name>[a-z_]+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[-+]?\d+(\.\d*)?([eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Threshold:
    """A comparison fails when its mean value of `name` is on that side of `limit`."""

    name: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:g}"

    def failed_by(self, value: float) -> bool:
        return bool(_SIGNS[self.sign](value, self.limit))


def parse_threshold(text: str) -> Threshold:
    """A threshold as it is typed. Raises SettingsError for what is none."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise SettingsError(
            f"{text!r} is no threshold: give a metric, <, <=, > or >=, and a number, for instance 'psnr<30'"
        )
    return Threshold(match["name"], match["sign"], float(match["limit"]))
