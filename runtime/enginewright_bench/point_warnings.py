"""What a reader of a load's figures must know before believing them."""

from __future__ import annotations

from collections.abc import Mapping

from enginewright_bench.result import Client, ServerTotals, TokenCheck
from enginewright_bench.server_metrics import totals_text
from enginewright_bench.summary import Summary

__all__ = ["point_warnings"]

# A late start of a few milliseconds is the operating system's; more at p99 means that the client fell behind.
_LATE_MS = 10.0
_BUSY_SHARE = 0.8  # of one core, on which everything here runs
_RETOKENIZED = 0.02


def point_warnings(
    metrics: Mapping[str, Summary], client: Client, tokens: TokenCheck, totals: ServerTotals | None
) -> list[str]:
    """A sentence for each: failures, a client that was late or busy, tokens or totals that do not agree."""
    found = []
    failed = metrics["error_request_count"].avg
    if failed:
        asked = failed + metrics["request_count"].avg
        found.append(f"{failed:.0f} of {asked:.0f} requests failed: the figures are those of the others")
    late = metrics.get("send_lateness")
    if late is not None and late.p99 is not None and late.p99 > _LATE_MS:
        found.append(
            f"the client fell behind: requests were sent up to {late.max:.0f} ms late "
            f"(p99 {late.p99:.0f} ms); that is in the latencies"
        )
    if client.cpu_share > _BUSY_SHARE:
        found.append(
            f"the client was busy for {client.cpu_share:.0%} of the time: it may be the bottleneck itself"
        )
    if tokens.input_mismatches:
        found.append(f"{tokens.input_mismatches} prompts had another length than the one aimed at")
    if tokens.short_answers:
        found.append(f"{tokens.short_answers} answers were shorter than asked for")
    if tokens.retokenized is not None and tokens.counted:
        apart = abs(tokens.retokenized - tokens.counted) / tokens.counted
        if apart > _RETOKENIZED:
            found.append(
                f"the answers' text has {tokens.retokenized} tokens when it is encoded again, "
                f"the server counted {tokens.counted}"
            )
    if totals is not None and not totals.agrees:
        found.append(f"the server's metrics and its answers do not agree: {totals_text(totals)}")
    return found
