"""Times and rates against a server whose delays are known."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright_bench import Lengths, Load, ServiceLevel, Workload
from enginewright_bench.arrivals import poisson_arrivals
from enginewright_bench.load import run_open_loop
from enginewright_bench.point_metrics import point_metrics
from enginewright_bench.record import RequestRecord
from enginewright_bench.send_request import BenchRequest, send_request
from enginewright_client import Delta, SamplingParams, Usage
from runtime.bench_runs import run_loads
from runtime.fake_triton import FakeTriton

FIRST, GAP, TOKENS = 1.0, 0.25, 4  # long enough that 2 % is more than a busy machine adds


def load(requests: int, **options: Any) -> Load:
    workload = Workload(outputs=Lengths(options.pop("tokens", TOKENS)), inputs=Lengths(12))
    options.setdefault("warmup", 0)
    if "rate" not in options:
        options.setdefault("concurrency", 2)
    return Load("load", workload, requests, **options)


def within(value: float, expected: float) -> bool:
    """1 ms or 2 %, whichever is more; milliseconds."""
    return abs(value - expected) <= max(1.0, 0.02 * expected)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(result, folder) of nine requests by three users, three of warm-up before them."""
    folder = tmp_path_factory.mktemp("known") / "out"
    result = run_loads(
        folder,
        FakeTriton(first=FIRST, gap=GAP),
        [load(9, concurrency=3, warmup=3)],
        level=ServiceLevel({"time_to_first_token": 60_000.0}),
    )
    return result, folder / "load"


def test_first_token_gap_and_latency_are_the_servers(known: Any) -> None:
    metrics = known[0].points[0].metrics
    assert within(metrics["time_to_first_token"].p50, 1000 * FIRST)
    assert within(metrics["inter_token_latency"].p50, 1000 * GAP)
    assert within(metrics["inter_chunk_latency"].p50, 1000 * GAP)
    assert within(metrics["request_latency"].p50, 1000 * (FIRST + (TOKENS - 1) * GAP))
    assert metrics["output_token_throughput_per_user"].p50 == pytest.approx(1 / GAP, rel=0.02)


def test_totals_and_rates_count_every_request_but_warm_up(known: Any) -> None:
    [point] = known[0].points
    metrics = point.metrics
    assert point.warmup_requests == 3
    assert metrics["request_count"].avg == 9
    assert metrics["total_osl"].avg == 9 * TOKENS
    assert metrics["total_isl"].avg == 9 * 12
    seconds = metrics["benchmark_duration"].avg
    assert metrics["output_token_throughput"].avg == pytest.approx(9 * TOKENS / seconds)
    assert metrics["request_throughput"].avg == pytest.approx(9 / seconds)
    assert metrics["goodput"].avg == pytest.approx(9 / seconds)
    assert 2.5 < metrics["effective_concurrency"].avg <= 3


def test_a_few_lines_of_numpy_find_the_same_figures(known: Any) -> None:
    result, folder = known
    rows = [json.loads(line) for line in (folder / "profile_export.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["metadata"]["benchmark_phase"] == "profiling"]
    start, end, first = (
        np.array([row["metadata"][f"{name}_ns"] for row in rows])
        for name in ("credit_issued", "request_end", "request_ack")
    )
    tokens = np.array([row["metrics"]["output_sequence_length"]["value"] for row in rows])
    expected = {
        "time_to_first_token": (first - start) / 1e6,
        "request_latency": (end - start) / 1e6,
        "inter_token_latency": (end - first) / 1e6 / (tokens - 1),
    }
    metrics = result.points[0].metrics
    exported = json.loads((folder / "profile_export_aiperf.json").read_text())
    for tag, values in expected.items():
        for name, value in (
            ("avg", values.mean()),
            ("std", values.std()),
            ("min", values.min()),
            ("max", values.max()),
            *((f"p{percent}", np.percentile(values, percent)) for percent in (50, 90, 95, 99)),
        ):
            assert getattr(metrics[tag], name) == pytest.approx(value, rel=1e-6)
            assert exported[tag][name] == pytest.approx(value, rel=1e-6)
    speed = tokens.sum() / ((end.max() - start.min()) / 1e9)
    assert metrics["output_token_throughput"].avg == pytest.approx(speed, rel=1e-6)


def test_a_request_that_waits_in_an_open_loop_counts_its_waiting(tmp_path: Path) -> None:
    """One slot of 0.1 s, asked 50 times a second: measured from the sending alone this would look idle."""
    fake = FakeTriton(first=0.1, slots=1)
    result = run_loads(tmp_path / "out", fake, [load(10, rate=50.0, tokens=1)])
    metrics = result.points[0].metrics
    last_arrival = poisson_arrivals(50.0, 10, (0, 0))[-1]
    assert metrics["request_latency"].max >= 1000 * (10 * 0.1 - last_arrival)
    assert metrics["request_latency"].min >= 100
    assert metrics["request_latency"].p50 > 300


class BlockingClient:
    """Holds up the whole event loop for `seconds` with each request, as an overloaded client would."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def stream(
        self, prompt: object, sampling: object = None, **options: object
    ) -> AsyncIterator[Delta]:
        time.sleep(self.seconds)
        yield Delta("a", "length", Usage(1, 1))


def test_a_client_that_falls_behind_says_so_and_its_lateness_is_in_the_latencies() -> None:
    client = BlockingClient(0.05)

    async def send(request: BenchRequest, scheduled_ns: int | None) -> RequestRecord:
        return await send_request(client, request, scheduled_ns=scheduled_ns)

    requests = [BenchRequest(number, str(number), "a", None, SamplingParams()) for number in range(10)]
    records = asyncio.run(run_open_loop(send, requests, [0.01 * number for number in range(10)]))
    metrics = point_metrics(records, None)
    # The tenth is due after 0.09 s and nine times 0.05 s of blocking come before it.
    assert metrics["send_lateness"].max is not None
    assert metrics["send_lateness"].max >= 1000 * (9 * 0.05 - 0.09) - 1
    assert metrics["time_to_first_token"].max is not None
    assert metrics["time_to_first_token"].max >= metrics["send_lateness"].max + 50


def test_lateness_is_a_warning_of_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enginewright_bench import measure_load

    async def late(*args: Any, scheduled_ns: int | None = None, **options: Any) -> RequestRecord:
        time.sleep(0.03)
        return await send_request(*args, scheduled_ns=scheduled_ns, **options)

    monkeypatch.setattr(measure_load, "send_request", late)
    result = run_loads(tmp_path / "out", FakeTriton(), [load(10, rate=100.0, tokens=1)])
    assert any("the client fell behind" in warning for warning in result.points[0].warnings)


def test_requests_of_an_open_loop_are_sent_when_they_arrive(tmp_path: Path) -> None:
    result = run_loads(tmp_path / "out", FakeTriton(), [load(12, rate=20.0, tokens=1)])
    lines = (tmp_path / "out" / "load" / "profile_export.jsonl").read_text().splitlines()
    metadata = sorted((json.loads(line)["metadata"] for line in lines), key=lambda row: row["session_num"])
    scheduled = np.array([row["credit_issued_ns"] for row in metadata])
    arrivals = poisson_arrivals(20.0, 12, (0, 0))
    assert np.allclose(np.diff(scheduled) / 1e9, np.diff(arrivals), atol=1e-6)
    assert all(row["request_start_ns"] >= row["credit_issued_ns"] for row in metadata)
    assert result.points[0].metrics["send_lateness"].p50 < 25  # half of the mean gap
