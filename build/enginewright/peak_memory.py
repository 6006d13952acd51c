"""Peak resident memory of a piece of work, and giving back what it left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

__all__ = ["PeakMemory", "release_memory"]

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


def release_memory() -> None:
    """Return what is free to the system: the C library would keep gigabytes that the next stage needs."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not in every C library
        ctypes.CDLL(None).malloc_trim(0)
