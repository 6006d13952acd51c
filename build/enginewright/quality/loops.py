"""Does a generated text run in a loop?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["has_loop"]

_REPEATS = 3
# Shorter ones are language: "very, very, very", a row of dashes.
_TOKENS = 12


def has_loop(tokens: Sequence[int]) -> bool:
    """Whether some n-gram of any length comes three times in a row or more, over 12 tokens at least."""
    text = np.asarray(tokens)
    for period in range(1, len(text) // _REPEATS + 1):
        needed = max(_TOKENS, _REPEATS * period) - period
        if _longest_run(text[period:] == text[:-period]) >= needed:
            return True
    return False


def _longest_run(matches: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    ends = np.flatnonzero(np.concatenate([[True], ~matches, [True]]))
    return int(np.diff(ends).max() - 1)
