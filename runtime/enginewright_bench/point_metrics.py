"""The metrics of all requests of one load, and its failures by cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright_bench.metric_names import METRICS, OF_REQUESTS
from enginewright_bench.record import RequestRecord
from enginewright_bench.request_metrics import chunk_gaps, request_metrics
from enginewright_bench.service_level import ServiceLevel
from enginewright_bench.summary import Summary, summarize

__all__ = ["FailureCount", "count_failures", "point_metrics"]

_NS = 1e9


@dataclass(frozen=True, slots=True)
class FailureCount:
    """Requests that failed for one cause; `message` is the first one's."""

    code: str
    kind: str
    message: str
    count: int


def point_metrics(records: Sequence[RequestRecord], level: ServiceLevel | None) -> dict[str, Summary]:
    """By the metric's tag, of the requests that are not warm-up; empty if there are none.

    Distributions are those of answered requests. Rates divide what was answered by the whole duration, from
    the first scheduled start to the last end of any request: a failure adds to the time, never to the work.
    """
    measured = [record for record in records if record.phase == "profiling"]
    if not measured:
        return {}
    answered = [record for record in measured if record.failure is None]
    by_request = [request_metrics(record) for record in measured]
    values: dict[str, list[float]] = {tag: [] for tag in OF_REQUESTS}
    for metrics in by_request:
        for tag, value in metrics.items():
            values[tag].append(value)
    values["inter_chunk_latency"] = [gap for record in answered for gap in chunk_gaps(record)]
    results = {tag: summarize(values[tag], OF_REQUESTS[tag][1]) for tag in OF_REQUESTS if values[tag]}
    results.update(
        {tag: Summary(METRICS[tag][1], float(value)) for tag, value in _totals(measured, answered).items()}
    )
    if level is not None:
        good = sum(level.is_met(metrics) for metrics in by_request)
        goodness = {
            "good_request_count": good,
            "good_request_fraction": good / len(measured),
            "goodput": good / results["benchmark_duration"].avg,
        }
        results.update({tag: Summary(METRICS[tag][1], float(value)) for tag, value in goodness.items()})
    return results


def _totals(measured: Sequence[RequestRecord], answered: Sequence[RequestRecord]) -> dict[str, float]:
    start, end = min(record.scheduled_ns for record in measured), max(record.end_ns for record in measured)
    seconds = max(end - start, 1) / _NS
    inputs = sum(record.input_tokens or 0 for record in answered)
    outputs = sum(record.output_tokens or 0 for record in answered)
    failed = len(measured) - len(answered)
    return {
        "output_token_throughput": outputs / seconds,
        "input_token_throughput": inputs / seconds,
        "total_token_throughput": (inputs + outputs) / seconds,
        "request_throughput": len(answered) / seconds,
        "request_count": len(answered),
        "error_request_count": failed,
        "request_error_rate": 100 * failed / len(measured),
        "total_isl": inputs,
        "total_osl": outputs,
        "benchmark_duration": seconds,
        "effective_concurrency": sum(record.end_ns - record.start_ns for record in measured) / _NS / seconds,
    }


def count_failures(records: Sequence[RequestRecord]) -> list[FailureCount]:
    """The causes, the most frequent first; warm-up included, for it should not fail either."""
    found: dict[str, FailureCount] = {}
    for record in records:
        if (failure := record.failure) is not None:
            seen = found.get(failure.code)
            message, kind = (seen.message, seen.kind) if seen else (failure.message, failure.kind)
            found[failure.code] = FailureCount(failure.code, kind, message, (seen.count if seen else 0) + 1)
    return sorted(found.values(), key=lambda cause: (-cause.count, cause.code))
