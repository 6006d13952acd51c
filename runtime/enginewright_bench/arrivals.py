"""When the requests of an open loop arrive: a Poisson process, whatever the server does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["poisson_arrivals"]


def poisson_arrivals(rate: float, count: int, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """`count` ascending times in seconds from the start; `rate` requests a second on average.

    The gaps are exponential. The same seed gives the same times.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps)
