"""Sparse image editing with diffusion models: compute only the pixels that change."""

from __future__ import annotations

__version__ = "0.1.0"
