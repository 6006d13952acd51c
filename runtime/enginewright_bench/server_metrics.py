"""Triton's own counters, read from its metrics port before and after a load."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.error import URLError
from urllib.request import urlopen

from enginewright_errors import UsageError

from enginewright_bench.record import RequestRecord
from enginewright_bench.result import ServerTotals

__all__ = ["compare_totals", "read_counters"]

_TIMEOUT_SECONDS = 10.0
_LINE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)")
_COUNTERS = {
    ("nv_inference_request_success", 'model="llm"'): "triton_requests",
    ("enginewright_requests_total", 'outcome="completed"'): "requests",
    ("enginewright_tokens_total", 'kind="prompt"'): "input_tokens",
    ("enginewright_tokens_total", 'kind="output"'): "output_tokens",
}


def read_counters(address: str) -> dict[str, float]:
    """Requests, input and output tokens that the server at `address` ("host:port") has counted so far; what
    it does not count is missing.

    Raises UsageError when nothing answers there.
    """
    url = f"http://{address}/metrics"
    try:
        with urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            text = response.read().decode()
    except (URLError, OSError, ValueError) as error:
        raise UsageError(
            f"--metrics: {url} does not answer: {error}",
            code="no-metrics",
            hint="give the address that `enginewright serve` prints, or leave it out",
        ) from None
    totals: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        for (name, label), key in _COUNTERS.items():
            if match["name"] == name and label in (match["labels"] or ""):
                totals[key] = totals.get(key, 0.0) + float(match["value"])
    return totals


def compare_totals(
    before: Mapping[str, float], after: Mapping[str, float], records: Sequence[RequestRecord]
) -> ServerTotals:
    """What was counted between two readings, beside what the answers of `records` said.

    A failed request may be counted by the server or not, so with failures they need not agree.
    """
    counted = {key: after[key] - before.get(key, 0.0) for key in sorted(after)}
    answered = [record for record in records if record.failure is None]
    expected = {
        "requests": float(len(answered)),
        "triton_requests": float(len(answered)),
        "input_tokens": float(sum(record.input_tokens or 0 for record in answered)),
        "output_tokens": float(sum(record.output_tokens or 0 for record in answered)),
    }
    return ServerTotals(counted=counted, expected=expected, agrees=counted == expected)
