"""What a server shows on its metrics port beside Triton's own figures, which count no refusals, no tokens.

The family class is Triton's `pb_utils.MetricFamily`; tests give one that remembers. An update is a message to
the server (about 10 microseconds, more under load), so nothing here is called once a token.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

from enginewright_front.backend import EngineStats

RequestOutcome = Literal["completed", "cancelled", "refused", "failed"]
OUTCOMES: tuple[RequestOutcome, ...] = ("completed", "cancelled", "refused", "failed")

_FIRST_TOKEN_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_INTER_TOKEN_SECONDS = [0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5]


class Metrics:
    """Counters, gauges and histograms of one model. Times in seconds."""

    def __init__(self, family: Any) -> None:
        """family: `pb_utils.MetricFamily`."""
        # Triton drops a family that nobody holds.
        self._families: list[Any] = []
        self._lock = threading.Lock()

        def make(name: str, kind: Any, description: str) -> Any:
            self._families.append(family(name=f"enginewright_{name}", description=description, kind=kind))
            return self._families[-1]

        requests = make("requests_total", family.COUNTER, "Requests by outcome")
        self._requests = {outcome: requests.Metric(labels={"outcome": outcome}) for outcome in OUTCOMES}
        tokens = make("tokens_total", family.COUNTER, "Tokens of finished requests")
        self._tokens = {kind: tokens.Metric(labels={"kind": kind}) for kind in ("prompt", "output")}
        self._active = make("requests_active", family.GAUGE, "Requests that hold a slot").Metric(labels={})
        self._waiting = make("requests_waiting", family.GAUGE, "Requests without a slot yet").Metric(
            labels={}
        )
        self._kv_used = make("kv_cache_used_ratio", family.GAUGE, "Share of the KV cache in use").Metric(
            labels={}
        )
        self._report = make(
            "report_timestamp_seconds", family.GAUGE, "When the load was last reported; moves under requests"
        ).Metric(labels={})
        self._first_token = make(
            "time_to_first_token_seconds", family.HISTOGRAM, "From the request's arrival to its first token"
        ).Metric(labels={}, buckets=_FIRST_TOKEN_SECONDS)
        self._inter_token = make(
            "inter_token_seconds", family.HISTOGRAM, "Mean time between the tokens of a request"
        ).Metric(labels={}, buckets=_INTER_TOKEN_SECONDS)

    def finished(self, outcome: RequestOutcome) -> None:
        """One request more with this outcome."""
        with self._lock:
            self._requests[outcome].increment(1)

    def generated(
        self, *, prompt_tokens: int, output_tokens: int, arrival: float, first: float, last: float
    ) -> None:
        """A request that made tokens ended; its stamps are seconds of one clock."""
        with self._lock:
            self._tokens["prompt"].increment(prompt_tokens)
            self._tokens["output"].increment(output_tokens)
            if output_tokens:
                self._first_token.observe(first - arrival)
            if output_tokens > 1:
                self._inter_token.observe((last - first) / (output_tokens - 1))

    def load(self, stats: EngineStats) -> None:
        """The load at this moment."""
        with self._lock:
            self._active.set(stats.active)
            self._waiting.set(stats.waiting)
            self._report.set(time.time())
            if stats.kv_used is not None:
                self._kv_used.set(stats.kv_used)
