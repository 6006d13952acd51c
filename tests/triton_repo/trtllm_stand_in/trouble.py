"""What the stand-in does wrong when the request's seed says so."""

from __future__ import annotations

import enum
from typing import Any


class Trouble(enum.IntEnum):
    """SILENT: three tokens, then nothing. HANGS: nothing at all. BREAKS_OFF: an end without a last answer."""

    NONE = 0
    FIRST_ERROR = 9001
    LATE_ERROR = 9002
    HANGS = 9003
    SILENT = 9004
    BREAKS_OFF = 9005

    @classmethod
    def of(cls, given: dict[str, Any]) -> Trouble:
        seed = int(given["seed"].reshape(-1)[0]) if "seed" in given else 0
        return cls(seed) if seed in set(cls) else cls.NONE
