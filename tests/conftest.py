"""Settings all tests share."""

from __future__ import annotations

import signal

from hypothesis import settings

# Busy machines are slow, not wrong.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell lets what it starts in the background ignore interrupts, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
