"""stop_words_list and bad_words_list, read and checked as upstream's backend does."""

from __future__ import annotations

from typing import Any

import numpy as np


def read_words(array: np.ndarray[Any, Any] | None) -> list[tuple[int, ...]]:
    """[1, 2, n] -> the words. Raises ValueError for offsets that upstream would refuse."""
    if array is None:
        return []
    if array.ndim != 3 or array.shape[:2] != (1, 2):
        raise ValueError(f"a word list of shape {array.shape}")
    tokens, ends = array[0].tolist()
    used = [end for end in ends if end != -1]
    if ends[: len(used)] != used or used != sorted(set(used)) or max(used, default=0) > len(tokens):
        raise ValueError(f"word list offsets {ends}")
    return [tuple(tokens[start:end]) for start, end in zip([0, *used], used, strict=False)]
