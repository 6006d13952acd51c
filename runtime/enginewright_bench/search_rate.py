"""The highest request rate that keeps a service level, found by halving an interval."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

__all__ = ["search_rate"]

_RATIO = 1.1  # the interval is narrow enough
_MAX_PROBES = 14


async def search_rate(
    measure: Callable[[float], Awaitable[bool]], start: float
) -> tuple[float | None, float | None]:
    """(highest rate that was met, lowest that was not), each None if there is none.

    measure: loads the server at a rate and says whether the level was met. The rate is doubled from `start`
    until one fails, or halved until one is met; then the interval is halved (in ratio) until its ends are
    within 10 %. A load near the edge may go either way; each probe draws its own arrivals.
    """
    low: float | None = None
    high: float | None = None
    rate = start
    for _ in range(_MAX_PROBES):
        if await measure(rate):
            low = rate
        else:
            high = rate
        if low is None:
            rate /= 2
        elif high is None:
            rate *= 2
        elif high / low > _RATIO:
            rate = (low * high) ** 0.5
        else:
            break
    return low, high
