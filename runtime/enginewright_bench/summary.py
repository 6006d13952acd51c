"""The statistics of one metric, under aiperf's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PERCENTILES", "Summary", "summarize"]

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """A distribution over requests; or, with `avg` alone, one value of a whole run.

    Percentiles interpolate linearly; std is that of the population. All in `unit`.
    """

    unit: str
    avg: float
    min: float | None = None
    max: float | None = None
    sum: float | None = None
    p1: float | None = None
    p5: float | None = None
    p10: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    std: float | None = None
    count: int | None = None


def summarize(values: Sequence[float], unit: str) -> Summary:
    """Statistics of `values`, of which there must be one at least."""
    array = np.asarray(values, np.float64)
    quantiles = zip(PERCENTILES, np.percentile(array, PERCENTILES), strict=True)
    return Summary(
        unit=unit,
        avg=float(array.mean()),
        min=float(array.min()),
        max=float(array.max()),
        sum=float(array.sum()),
        std=float(array.std()),
        count=array.size,
        **{f"p{percent}": float(value) for percent, value in quantiles},
    )
