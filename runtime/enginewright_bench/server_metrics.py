"""The server's own counters before and after a load, beside what its answers said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginewright_client import Metrics

from enginewright_bench.record import RequestRecord
from enginewright_bench.result import ServerTotals

__all__ = ["compare_totals", "counters", "totals_text"]

# `llm` runs every request, whichever of the repository's models was asked.
_COUNTERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "triton_requests": ("nv_inference_request_success", {"model": "llm"}),
    "requests": ("enginewright_requests_total", {"outcome": "completed"}),
    "input_tokens": ("enginewright_tokens_total", {"kind": "prompt"}),
    "output_tokens": ("enginewright_tokens_total", {"kind": "output"}),
}


def counters(metrics: Metrics) -> dict[str, float]:
    """Requests by Triton's count (without the supervisor's probes) and by the front's, and tokens, since the
    server started; what a server does not count is missing."""
    found = {key: metrics.value(name, **labels) for key, (name, labels) in _COUNTERS.items()}
    counted = {key: value for key, value in found.items() if value is not None}
    if "triton_requests" in counted:
        counted["triton_requests"] -= metrics.value("enginewright_probes_total") or 0.0
    return counted


def compare_totals(
    before: Mapping[str, float], after: Mapping[str, float], records: Sequence[RequestRecord]
) -> ServerTotals:
    """What was counted between two readings, beside what the answers of `records` said.

    A failed request may be counted by the server or not, so with failures they need not agree. They do not
    either when somebody else asks the same server.
    """
    answered = [record for record in records if record.failure is None]
    requests = float(len(answered))
    expected = {
        "triton_requests": requests,
        "requests": requests,
        "input_tokens": float(sum(record.input_tokens or 0 for record in answered)),
        "output_tokens": float(sum(record.output_tokens or 0 for record in answered)),
    }
    counted = {key: value - before.get(key, 0.0) for key, value in after.items()}
    return ServerTotals(
        counted=counted,
        expected={key: expected[key] for key in counted},
        agrees=all(counted[key] == expected[key] for key in counted),
    )


def totals_text(totals: ServerTotals) -> str:
    """ "yes", or what was counted beside what the answers said, of those that differ."""
    if totals.agrees:
        return "yes"
    return ", ".join(
        f"{key.replace('_', ' ')} {count:.0f} against {totals.expected[key]:.0f}"
        for key, count in totals.counted.items()
        if count != totals.expected[key]
    )
