"""The metrics of one answered request, defined as aiperf defines them.

    time_to_first_token   from the scheduled start to the first message with text
    inter_token_latency   (request_latency - time_to_first_token) / (output tokens - 1)
    inter_chunk_latency   the gaps between messages with text, all of them
    request_latency       from the scheduled start to the last message
    send_lateness         from the scheduled start to the real one: the client's own share

In a closed loop the scheduled start is the real one. In an open loop it is the arrival that was drawn, so
that a request which waits for a slow client or server counts its waiting (no coordinated omission).
"""

from __future__ import annotations

from itertools import pairwise

from enginewright_bench.record import RequestRecord

__all__ = ["chunk_gaps", "request_metrics"]

_NS_PER_MS = 1e6


def request_metrics(record: RequestRecord) -> dict[str, float]:
    """By the metric's tag, in the units of `metric_names`; empty for a failed request.

    What cannot be seen is left out: the first text of an answer without any, and the gaps between tokens when
    there is one, or when all text came in one message.
    """
    if record.failure is not None or record.input_tokens is None or record.output_tokens is None:
        return {}
    latency = (record.end_ns - record.scheduled_ns) / _NS_PER_MS
    values: dict[str, float] = {
        "request_latency": latency,
        "input_sequence_length": record.input_tokens,
        "output_sequence_length": record.output_tokens,
        "send_lateness": (record.start_ns - record.scheduled_ns) / _NS_PER_MS,
    }
    if not record.text_ns:
        return values
    first = (record.text_ns[0] - record.scheduled_ns) / _NS_PER_MS
    values["time_to_first_token"] = first
    if first > 0:
        values["prefill_throughput_per_user"] = 1000 * record.input_tokens / first
    if len(record.text_ns) > 1 and record.output_tokens > 1:
        values["time_to_second_token"] = (record.text_ns[1] - record.text_ns[0]) / _NS_PER_MS
        gap = (latency - first) / (record.output_tokens - 1)
        values["inter_token_latency"] = gap
        values["output_token_throughput_per_user"] = 1000 / gap
    return values


def chunk_gaps(record: RequestRecord) -> list[float]:
    """Milliseconds between one message with text and the next."""
    return [(after - before) / _NS_PER_MS for before, after in pairwise(record.text_ns)]
