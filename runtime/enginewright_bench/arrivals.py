"""When the requests of an open loop arrive: a Poisson process, whatever the server does."""

from __future__ import annotations

import numpy as np
from enginewright_errors import UsageError
from numpy.typing import NDArray

__all__ = ["poisson_arrivals"]


def poisson_arrivals(rate: float, count: int, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """`count` ascending times in seconds from the start; `rate` requests a second on average.

    The gaps are exponential. The same seed gives the same times. Raises UsageError for a rate that is not
    above 0.
    """
    if not 0 < rate < float("inf"):
        raise UsageError(f"a request rate of {rate:g} a second", code="request-rate", hint="give one above 0")
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps)
