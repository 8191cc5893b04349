"""Settings all tests share."""

from __future__ import annotations

from hypothesis import settings

# Busy machines are slow, not wrong.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
