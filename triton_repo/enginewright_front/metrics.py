"""What a server shows on its metrics port beside Triton's own figures, which count no refusals, no tokens.

The family class is Triton's `pb_utils.MetricFamily`; tests give one that remembers. An update is a message to
the server (about 10 microseconds, more under load). So requests and tokens are only noted here, and the watch
thread shows them together once a second: a request waits for none of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from enginewright_front.backend import EngineStats
from enginewright_front.counted_histogram import CountedHistogram
from enginewright_front.request_record import OUTCOMES, RequestRecord

_REQUEST_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0]
_INTER_TOKEN_SECONDS = [0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5]


class Metrics:
    """Counters, gauges and histograms of one model. Times in seconds. May be used from any thread."""

    def __init__(self, family: Any, *, restarts: int = 0) -> None:
        """family: `pb_utils.MetricFamily`. restarts: how often the supervisor started this server again."""
        # Triton drops a family that nobody holds.
        self._families: list[Any] = []
        self._lock = threading.Lock()
        self._finished: list[RequestRecord] = []
        self._freed: list[float] = []

        def make(kind: Any, name: str, description: str) -> Any:
            self._families.append(family(name=f"enginewright_{name}", description=description, kind=kind))
            return self._families[-1]

        def gauge(name: str, description: str) -> Any:
            return make(family.GAUGE, name, description).Metric(labels={})

        def counter(name: str, description: str) -> Any:
            return make(family.COUNTER, name, description)

        def histogram(name: str, description: str) -> Any:
            made = make(family.HISTOGRAM, name, description)
            return made.Metric(labels={}, buckets=_REQUEST_SECONDS)

        requests = counter("requests_total", "Requests by outcome")
        self._requests = {outcome: requests.Metric(labels={"outcome": outcome}) for outcome in OUTCOMES}
        self._failures = counter("failures_total", "Requests that were refused or failed, by cause")
        self._causes: dict[str, Any] = {}
        tokens = counter("tokens_total", "Tokens of finished requests")
        self._tokens = {kind: tokens.Metric(labels={"kind": kind}) for kind in ("prompt", "output")}
        probes = counter(
            "probes_total", "The supervisor's probes, which Triton counts and nothing else here does"
        )
        self._probes = probes.Metric(labels={})
        self._active = gauge("requests_active", "Requests that hold a slot")
        self._waiting = gauge("requests_waiting", "Requests without a slot yet")
        self._unanswered = gauge(
            "requests_unanswered", "Requests that were taken on and not yet answered to the end"
        )
        self._kv_used = gauge("kv_cache_used_ratio", "Share of the KV cache in use")
        self._alive = gauge(
            "alive_timestamp_seconds", "When the thread that answers last came round; moves under requests"
        )
        gauge("restarts", "How often the supervisor started this server again").set(restarts)
        self._queue = histogram("queue_seconds", "From a request's arrival to its slot")
        self._first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token"
        )
        self._total = histogram("request_seconds", "From a request's arrival to its end")
        self._cancellation = histogram(
            "cancellation_seconds", "From the last look at which its caller was there to a slot that is free"
        )
        self._gaps = CountedHistogram(
            counter, "inter_token_seconds", "Time from one token to the next", _INTER_TOKEN_SECONDS
        )

    def finished(self, record: RequestRecord) -> None:
        """One request more."""
        with self._lock:
            self._finished.append(record)

    def probed(self) -> None:
        """The supervisor's probe was answered. It comes every few seconds, so it is shown at once."""
        self._probes.increment(1)

    def freed(self, seconds: float) -> None:
        """A cancelled request has left the engine, `seconds` after its caller was last known to wait."""
        with self._lock:
            self._freed.append(seconds)

    def token_gap(self, seconds: float, tokens: int) -> None:
        """`tokens` tokens came `seconds` after the one before: together, so each took its share."""
        with self._lock:
            self._gaps.observe(seconds / tokens, tokens)

    def publish(self, stats: EngineStats, alive_at: float, unanswered: int) -> None:
        """Show the load at this moment, and all that was noted since the last time.

        alive_at: when the thread that answers last came round, in seconds since 1970. unanswered: requests
        that were taken on and not answered to the end.
        """
        with self._lock:
            records, self._finished = self._finished, []
            freed, self._freed = self._freed, []
            self._gaps.publish()
        self._count(records)
        for record in records:
            self._total.observe(record.total)
            if record.scheduled is not None:
                self._queue.observe(record.scheduled)
            if record.first_token is not None:
                self._first_token.observe(record.first_token)
        for seconds in freed:
            self._cancellation.observe(seconds)
        self._active.set(stats.active)
        self._waiting.set(stats.waiting)
        if stats.kv_used is not None:
            self._kv_used.set(stats.kv_used)
        self._unanswered.set(unanswered)
        self._alive.set(alive_at)

    def _count(self, records: list[RequestRecord]) -> None:
        for outcome, count in Counter(record.outcome for record in records).items():
            self._requests[outcome].increment(count)
        for cause, count in Counter(record.cause for record in records if record.cause).items():
            if cause not in self._causes:
                self._causes[cause] = self._failures.Metric(labels={"cause": cause})
            self._causes[cause].increment(count)
        for kind, tokens in (
            ("prompt", sum(record.prompt_tokens for record in records if record.output_tokens)),
            ("output", sum(record.output_tokens for record in records)),
        ):
            if tokens:
                self._tokens[kind].increment(tokens)
