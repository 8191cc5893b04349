"""Fractal noise for the landscapes, cut out of a few periodic banks that are computed once, on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparsedit.suites.scenes.scene import BASE_WIDTH, HEIGHT

TextureKind = Literal["soft", "rock", "cloud", "grass", "wave"]
Texture = npt.NDArray[np.float32]

_PERIOD = 512
_SHEETS = 4


@dataclass(frozen=True)
class _Spectrum:
    """Power law of a texture: amplitude f^-falloff above `lowest`, with f stretched per axis."""

    seed: int
    falloff: float
    stretch_y: float
    stretch_x: float
    lowest: float


_SPECTRA: dict[TextureKind, _Spectrum] = {
    "soft": _Spectrum(11, 2.0, 1.0, 1.0, 0.0),  # smooth, the same in all directions
    "rock": _Spectrum(12, 1.45, 1.0, 1.0, 6.0),  # rougher
    "cloud": _Spectrum(13, 1.9, 1.5, 3.4, 8.0),
    "grass": _Spectrum(14, 1.5, 3.5, 1.0, 10.0),
    "wave": _Spectrum(15, 1.7, 1.0, 9.0, 24.0),
}


@cache
def _bank(kind: TextureKind) -> Texture:
    """[4, 512, 512] sheets of zero mean and unit deviation, periodic on both axes."""
    spectrum = _SPECTRA[kind]
    rng = np.random.default_rng(spectrum.seed)
    fy = np.fft.fftfreq(_PERIOD)[:, None] * _PERIOD * spectrum.stretch_y
    fx = np.fft.rfftfreq(_PERIOD)[None] * _PERIOD * spectrum.stretch_x
    radius = np.sqrt(fx * fx + fy * fy)
    radius[0, 0] = 1
    amplitude = radius**-spectrum.falloff * (radius >= spectrum.lowest)
    amplitude[0, 0] = 0
    sheets = []
    for _ in range(_SHEETS):
        white = np.fft.rfft2(rng.standard_normal((_PERIOD, _PERIOD)))
        sheet = np.fft.irfft2(white * amplitude, s=(_PERIOD, _PERIOD))
        sheets.append((sheet / sheet.std()).astype(np.float32))
    return np.stack(sheets)


def texture(kind: TextureKind, rng: np.random.Generator, width: int = BASE_WIDTH) -> Texture:
    """A random cut [HEIGHT, width] of a bank, mirrored half of the time; wider than the bank it repeats."""
    bank = _bank(kind)
    sheet = int(rng.integers(len(bank)))
    top = int(rng.integers(_PERIOD - HEIGHT + 1))
    left = int(rng.integers(max(_PERIOD - width, 0) + 1))
    cut = _columns(bank[sheet, top : top + HEIGHT], left, width)
    return cut[:, ::-1] if rng.random() < 0.5 else cut


def line(rng: np.random.Generator, length: int, kind: TextureKind = "soft") -> Texture:
    """A random piece [length] of one row of a bank."""
    bank = _bank(kind)
    row = bank[int(rng.integers(len(bank))), int(rng.integers(_PERIOD))]
    return _columns(row, int(rng.integers(max(_PERIOD - length, 0) + 1)), length)


def _columns(sheet: Texture, left: int, width: int) -> Texture:
    if left + width <= _PERIOD:
        return sheet[..., left : left + width]
    return np.take(sheet, np.arange(left, left + width), axis=-1, mode="wrap")
