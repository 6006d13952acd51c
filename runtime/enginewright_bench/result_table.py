"""The rows that a terminal and the HTML report show of a result: texts, one definition for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginewright_bench.result import BenchResult, Point
from enginewright_bench.summary import Summary

__all__ = ["COLUMNS", "limit_text", "result_rows", "search_text"]

COLUMNS = (
    "load",
    "answered",
    "failed",
    "TTFT p50",
    "p95",
    "p99 ms",
    "ITL p50",
    "p95",
    "p99 ms",
    "latency p50",
    "p99 ms",
    "tokens/s",
    "a user",
    "requests/s",
    "goodput",
    "of limit",
    "decoding",
)
_NONE = "-"


def result_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """A row of texts for each point, in the order of COLUMNS."""
    return [_row(point) for point in points]


def _row(point: Point) -> tuple[str, ...]:
    metrics = point.metrics
    limit = point.limit
    return (
        point.label,
        f"{metrics['request_count'].avg:.0f}",
        f"{metrics['error_request_count'].avg:.0f}",
        *(_figure(metrics, "time_to_first_token", name) for name in ("p50", "p95", "p99")),
        *(_figure(metrics, "inter_token_latency", name) for name in ("p50", "p95", "p99")),
        *(_figure(metrics, "request_latency", name) for name in ("p50", "p99")),
        _figure(metrics, "output_token_throughput", "avg"),
        _figure(metrics, "output_token_throughput_per_user", "p50"),
        _figure(metrics, "request_throughput", "avg"),
        _figure(metrics, "goodput", "avg"),
        _NONE if limit is None else f"{limit.share:.0%}",
        _NONE if limit is None or limit.decode_share is None else f"{limit.decode_share:.0%}",
    )


def _figure(metrics: Mapping[str, Summary], tag: str, statistic: str) -> str:
    value = getattr(metrics[tag], statistic) if tag in metrics else None
    return _NONE if value is None else f"{value:.4g}"


def limit_text(result: BenchResult) -> str:
    """The physical limit in one sentence, or why it is unknown."""
    limit = result.limit
    if limit is None:
        return f"limit unknown: {result.limit_unknown}"
    alone = 1 / limit.step_seconds(1, 0)
    return (
        f"limit: one stream decodes {alone:.4g} tokens/s with an empty context: a step reads "
        f"{limit.weight_bytes / 1e6:.4g} MB of weights and {limit.kv_bytes_per_token / 1e3:.4g} kB for each "
        f"token of context, at {limit.bandwidth / 1e9:.4g} GB/s ({limit.source})"
    )


def search_text(result: BenchResult) -> str:
    """What the search found, or an empty text."""
    search = result.search
    if search is None:
        return ""
    wanted = f"{search.required_fraction:.0%} of the requests within {search.service_level}"
    if search.request_rate is None:
        return f"no rate tried keeps {wanted}: even {search.upper_rate:.3g} requests/s did not"
    beyond = "the search ended" if search.upper_rate is None else f"{search.upper_rate:.3g} did not"
    return f"{search.request_rate:.3g} requests/s keep {wanted}; {beyond}"
