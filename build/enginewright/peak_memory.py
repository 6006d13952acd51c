"""Peak resident memory of a piece of work, as the kernel counted it."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["PeakMemory"]

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Counts from the moment it is made: `bytes()` is the highest resident size since then.

    Where the kernel does not let a process reset its own mark, it is the highest since the process began.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            _RESET.write_text("5")

    def bytes(self) -> int | None:
        """None on a system that does not say."""
        with contextlib.suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return None
