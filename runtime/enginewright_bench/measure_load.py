"""One load, measured: prompts, warm-up, the load itself, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from enginewright_client import Metrics

from enginewright_bench.arrivals import poisson_arrivals
from enginewright_bench.check_tokens import check_tokens
from enginewright_bench.count_tokens import LocalTokenizer
from enginewright_bench.load import run_closed_loop, run_open_loop
from enginewright_bench.loads import Load
from enginewright_bench.observer import Observer
from enginewright_bench.physical_limit import PhysicalLimit, share_reached
from enginewright_bench.point_metrics import count_failures, point_metrics
from enginewright_bench.point_warnings import point_warnings
from enginewright_bench.record import Phase, RequestRecord
from enginewright_bench.result import Client, Point, ServerTotals
from enginewright_bench.send_request import BenchRequest, StreamingClient, send_request
from enginewright_bench.server_metrics import compare_totals, counters
from enginewright_bench.service_level import ServiceLevel
from enginewright_bench.write_prompt import PromptWriter

__all__ = ["Measurement", "Setup", "measure_load"]

ReadMetrics = Callable[[], Awaitable[Metrics]]

_SETTLE_SECONDS, _SETTLE_READINGS = 1.0, 5


@dataclass(frozen=True, slots=True)
class Setup:
    """What all loads of a run share. metrics: reads the server's counters, to compare totals with them."""

    client: StreamingClient
    writer: PromptWriter
    observer: Observer
    name: str
    seed: int
    timeout: float | None = None
    level: ServiceLevel | None = None
    limit: PhysicalLimit | None = None
    tokenizer: LocalTokenizer | None = None
    metrics: ReadMetrics | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A point with the requests and records it was made of, warm-up included."""

    point: Point
    requests: Sequence[BenchRequest]
    records: Sequence[RequestRecord]


async def measure_load(setup: Setup, load: Load, number: int) -> Measurement:
    """Run `load`, the `number`th of its run, which draws its requests from (seed, number)."""
    setup.observer.preparing(load)
    seed = (setup.seed, number)
    requests = await load.workload.requests(
        setup.writer, load.warmup + load.requests, seed, f"{setup.name}-{load.label}"
    )
    setup.observer.started(load)
    before = counters(await setup.metrics()) if setup.metrics else {}
    warmup = await _run(setup, load, requests[: load.warmup], "warmup", seed)
    cpu, wall = time.process_time(), time.monotonic()
    measured = await _run(setup, load, requests[load.warmup :], "profiling", seed)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    records = [*warmup, *measured]
    totals = await _settled_totals(setup.metrics, before, records) if before and setup.metrics else None
    metrics = point_metrics(records, setup.level)
    messages = sum(len(record.text_ns) for record in measured)
    client = Client(
        cpu_seconds=cpu,
        cpu_share=cpu / max(wall, 1e-9),
        messages=messages,
        cpu_us_per_message=1e6 * cpu / messages if messages else None,
    )
    tokens = check_tokens(requests, records, setup.tokenizer)
    point = Point(
        label=load.label,
        mode="closed" if load.rate is None else "open",
        concurrency=load.concurrency,
        request_rate=load.rate,
        input_tokens=load.workload.inputs_text(),
        output_tokens=str(load.workload.outputs),
        warmup_requests=load.warmup,
        folder=load.label,
        metrics=metrics,
        failures=count_failures(records),
        limit=share_reached(setup.limit, metrics) if setup.limit else None,
        client=client,
        tokens=tokens,
        server_totals=totals,
        warnings=point_warnings(metrics, client, tokens, totals),
    )
    setup.observer.measured(point)
    return Measurement(point, requests, records)


async def _run(
    setup: Setup, load: Load, requests: Sequence[BenchRequest], phase: Phase, seed: tuple[int, ...]
) -> list[RequestRecord]:
    async def send(request: BenchRequest, scheduled_ns: int | None) -> RequestRecord:
        record = await send_request(
            setup.client,
            request,
            phase=phase,
            scheduled_ns=scheduled_ns,
            timeout=setup.timeout,
            on_text=setup.observer.token,
        )
        setup.observer.ended(record)
        return record

    if load.rate is None or phase == "warmup":
        return await run_closed_loop(send, requests, load.concurrency or 1)
    return await run_open_loop(send, requests, list(poisson_arrivals(load.rate, len(requests), seed)))


async def _settled_totals(
    metrics: ReadMetrics, before: dict[str, float], records: Sequence[RequestRecord]
) -> ServerTotals:
    """A server may count a request a moment after its last message."""
    for _ in range(_SETTLE_READINGS):
        totals = compare_totals(before, counters(await metrics()), records)
        if totals.agrees:
            break
        await asyncio.sleep(_SETTLE_SECONDS / _SETTLE_READINGS)
    return totals
