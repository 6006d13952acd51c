"""Percentile bootstrap over blocks (Efron 1979; Künsch 1989 for blocks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from enginewright.quality.figures import Figure

__all__ = ["BLOCK", "bootstrap", "bootstrap_mean"]

# Neighbouring positions of a text are hard or easy together: one by one they would promise too much.
BLOCK = 32
_RESAMPLES = 1000
_LEVELS = (0.025, 0.975)
_SEED = 0

Values = NDArray[np.float64]


def bootstrap(blocks: Sequence[Values], statistic: Callable[[Values], float]) -> Figure:
    """`statistic` of all rows of `blocks`, each [positions, ...], and its interval.

    Whole blocks are drawn with replacement, as many as there are; the same blocks give the same interval.
    """
    draws = np.random.default_rng(_SEED).integers(len(blocks), size=(_RESAMPLES, len(blocks)))
    found = [statistic(np.concatenate([blocks[index] for index in draw])) for draw in draws]
    low, high = np.quantile(found, _LEVELS)
    return _figure(statistic(np.concatenate(blocks)), low, high)


def bootstrap_mean(blocks: Sequence[Values], of: Callable[[Values], Values] = lambda mean: mean) -> Figure:
    """`of` the mean over all positions, and its interval; the same as `bootstrap`, without the copies.

    of: a function of means [..., values] -> [...], applied to all resamples at once.
    """
    sums = np.stack([block.sum(axis=0) for block in blocks])
    counts = np.array([len(block) for block in blocks], np.float64)
    draws = np.random.default_rng(_SEED).integers(len(blocks), size=(_RESAMPLES, len(blocks)))
    totals = counts[draws].sum(axis=1)
    found = of(sums[draws].sum(axis=1) / totals.reshape(-1, *[1] * (sums.ndim - 1)))
    low, high = np.quantile(found, _LEVELS)
    return _figure(float(of(sums.sum(axis=0) / counts.sum())), low, high)


def _figure(value: float, low: float, high: float) -> Figure:
    return Figure(*(float(f"{number:.9g}") for number in (value, low, high)))
