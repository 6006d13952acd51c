"""The rows that a terminal and the HTML report show of a result: texts, one definition for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginewright_bench.result import BenchResult, Point
from enginewright_bench.summary import Summary

__all__ = ["COLUMNS", "limit_text", "result_rows", "search_text"]

COLUMNS = (
    "load",
    "answered",
    "TTFT, ms",
    "ITL, ms",
    "latency, ms",
    "tokens/s",
    "a user",
    "req/s",
    "good",
    "of limit",
    "decoding",
)
"""Latencies are p50/p95/p99, TTFT and ITL are the first token's and those between tokens; `write_report` says
what each is."""
_LATENCIES = ("time_to_first_token", "inter_token_latency", "request_latency")
_PERCENTILES = ("p50", "p95", "p99")
_NONE = "-"


def result_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """A row of texts for each point, in the order of COLUMNS."""
    return [_row(point) for point in points]


def _row(point: Point) -> tuple[str, ...]:
    metrics, limit = point.metrics, point.limit
    answered, failed = metrics["request_count"].avg, metrics["error_request_count"].avg
    return (
        point.label,
        f"{answered:.0f} of {answered + failed:.0f}",
        *(_figures(metrics, tag, _PERCENTILES) for tag in _LATENCIES),
        _figures(metrics, "output_token_throughput", ("avg",)),
        _figures(metrics, "output_token_throughput_per_user", ("p50",)),
        _figures(metrics, "request_throughput", ("avg",)),
        _share(metrics["good_request_fraction"].avg if "good_request_fraction" in metrics else None),
        _share(limit.share if limit else None),
        _share(limit.decode_share if limit else None),
    )


def _figures(metrics: Mapping[str, Summary], tag: str, statistics: Sequence[str]) -> str:
    if tag not in metrics:
        return _NONE
    return "/".join(_number(getattr(metrics[tag], name)) for name in statistics)


def _number(value: float) -> str:
    """Three digits: 1234.5 -> "1234", 12.345 -> "12.3"."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0%}"


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
