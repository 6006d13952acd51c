"""One clock for all timestamps: it reads like wall time and never steps back."""

from __future__ import annotations

import time

__all__ = ["now_ns"]

_OFFSET = time.time_ns() - time.monotonic_ns()


def now_ns() -> int:
    """Nanoseconds since 1970, as the system's clock had it when the process began."""
    return time.monotonic_ns() + _OFFSET
