"""The two ways to load a server.

Closed loop: so many users, each of whom sends the next request when the last one has ended. It finds what a
server can do; its latencies do not say what a crowd of independent users would see, since a slow server is
asked less.
Open loop: requests arrive when they arrive, at a given rate, whether or not the server keeps up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from enginewright_bench.clock import now_ns
from enginewright_bench.record import RequestRecord
from enginewright_bench.send_request import BenchRequest

__all__ = ["Send", "run_closed_loop", "run_open_loop"]

Send = Callable[[BenchRequest, int | None], Awaitable[RequestRecord]]
"""Sends a request that was scheduled for a time of `clock.now_ns` (None: now) and waits for its end."""

_NS = 1e9
# A timer of the event loop ends up to a millisecond late: the rest of a wait is spent looking at the clock.
_TIMER_SECONDS = 0.002


async def run_closed_loop(
    send: Send, requests: Iterable[BenchRequest], concurrency: int
) -> list[RequestRecord]:
    """Send all `requests`, `concurrency` of them at a time; records in the order in which they ended."""
    waiting = iter(requests)
    records: list[RequestRecord] = []

    async def user() -> None:
        for request in waiting:
            records.append(await send(request, None))

    await asyncio.gather(*(user() for _ in range(concurrency)))
    return records


async def run_open_loop(
    send: Send, requests: Sequence[BenchRequest], arrivals: Sequence[float]
) -> list[RequestRecord]:
    """Send each of `requests` at its arrival, in seconds from now; records in their order.

    Nothing holds a request back: when the client is late, the record has the scheduled time beside the real
    one.
    """
    start = now_ns()
    running = []
    for request, arrival in zip(requests, arrivals, strict=True):
        due = start + round(arrival * _NS)
        await _until(due)
        running.append(asyncio.ensure_future(send(request, due)))
    return list(await asyncio.gather(*running))


async def _until(due: int) -> None:
    rest = (due - now_ns()) / _NS
    await asyncio.sleep(max(0.0, rest - _TIMER_SECONDS))  # 0 lets running answers be read
    while now_ns() < due:
        await asyncio.sleep(0)
