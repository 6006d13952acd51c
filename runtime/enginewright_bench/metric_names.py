"""Every metric of a result: aiperf's tag, its header and its unit.

Where aiperf has no such metric the tag is ours: effective_concurrency, send_lateness.
"""

from __future__ import annotations

__all__ = ["METRICS", "OF_REQUESTS"]

_TOKENS_PER_SECOND = "tokens/sec"
_PER_USER = "tokens/sec/user"

OF_REQUESTS: dict[str, tuple[str, str]] = {
    "time_to_first_token": ("Time to First Token", "ms"),
    "time_to_second_token": ("Time to Second Token", "ms"),
    "inter_token_latency": ("Inter Token Latency", "ms"),
    "inter_chunk_latency": ("Inter Chunk Latency", "ms"),
    "request_latency": ("Request Latency", "ms"),
    "output_token_throughput_per_user": ("Output Token Throughput Per User", _PER_USER),
    "prefill_throughput_per_user": ("Prefill Throughput Per User", _PER_USER),
    "input_sequence_length": ("Input Sequence Length", "tokens"),
    "output_sequence_length": ("Output Sequence Length", "tokens"),
    "send_lateness": ("Send Lateness", "ms"),
}
"""Distributions over requests."""

METRICS: dict[str, tuple[str, str]] = {
    **OF_REQUESTS,
    "output_token_throughput": ("Output Token Throughput", _TOKENS_PER_SECOND),
    "input_token_throughput": ("Input Token Throughput", _TOKENS_PER_SECOND),
    "total_token_throughput": ("Total Token Throughput", _TOKENS_PER_SECOND),
    "request_throughput": ("Request Throughput", "requests/sec"),
    "goodput": ("Goodput", "requests/sec"),
    "good_request_count": ("Good Request Count", "requests"),
    "good_request_fraction": ("Good Request Fraction", "ratio"),
    "request_count": ("Request Count", "requests"),
    "error_request_count": ("Error Request Count", "requests"),
    "request_error_rate": ("Request Error Rate", "%"),
    "total_isl": ("Total Input Sequence Length", "tokens"),
    "total_osl": ("Total Output Sequence Length", "tokens"),
    "benchmark_duration": ("Benchmark Duration", "sec"),
    "effective_concurrency": ("Effective Concurrency", "requests"),
}
