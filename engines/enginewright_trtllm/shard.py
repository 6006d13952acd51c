"""How one tensor is divided over tensor-parallel ranks, as arithmetic on blocks of its rows.

A tensor is read once, block by block, and every rank takes its part of each block. Bytes are never
interpreted: an AWQ weight packs rows 2i and 2i+1 into byte row i, so its rows split like any others once each
part's width is a multiple of 2 * tp (`check_parallel`), and its columns are plain columns.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "cut"]


class Rule(Enum):
    """What a rank holds of its sources."""

    ROWS = "rows"  # rank r: the r-th of tp equal runs of rows of each source; zeros beyond the last row
    COLUMNS = "columns"  # rank r: the r-th of tp equal runs of columns
    WHOLE = "whole"  # every rank: the source
    SHARED = "shared"  # every rank: the one value that all sources agree on
    MAXIMUM = "maximum"  # every rank: [1], the largest of the sources' scalars
    MAXIMUM_OF_ONE = "maximum-of-one"  # the same, but never below 1.0 (ModelOpt's clamp of FP8 KV scales)


def cut(
    block: NDArray[np.uint8], first: int, *, rule: Rule, rows_each: int, tp: int, tp_rank: int
) -> NDArray[np.uint8]:
    """The part of a block that belongs to `tp_rank`.

    block [rows, row_bytes] starts at row `first` of its source; under ROWS a rank owns `rows_each` rows of
    that source. Returns a view [n, bytes], n = 0 when the block holds nothing of the rank.
    """
    if rule is Rule.ROWS:
        low = min(max(tp_rank * rows_each - first, 0), len(block))
        high = min(max((tp_rank + 1) * rows_each - first, 0), len(block))
        return block[low:high]
    if rule is Rule.COLUMNS:
        width = block.shape[1] // tp
        return block[:, tp_rank * width : (tp_rank + 1) * width]
    return block
