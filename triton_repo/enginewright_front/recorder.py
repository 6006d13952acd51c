"""Notes requests for the metrics and the log, from their first token to their end."""

from __future__ import annotations

import time

from enginewright_front.entry import Entry
from enginewright_front.metrics import Metrics
from enginewright_front.request_record import RequestOutcome, record_of, write_log_line
from enginewright_front.serve_settings import ServeSettings


class Recorder:
    """The supervisor's probes, which are nobody's requests, are only counted."""

    def __init__(self, metrics: Metrics, settings: ServeSettings) -> None:
        self._metrics = metrics
        self._settings = settings

    def advanced(self, entry: Entry) -> None:
        """There may be new tokens: note the time between them, as the caller sees it."""
        session = entry.session
        if session is None or session.num_output_tokens == entry.tokens_told or self._is_probe(entry):
            return
        now = time.monotonic()
        if not entry.tokens_told:
            entry.tokens_told, entry.told_at = 1, session.first_token_ns / 1e9
        if new := session.num_output_tokens - entry.tokens_told:
            self._metrics.token_gap(max(now - entry.told_at, 0.0), new)
            entry.tokens_told, entry.told_at = session.num_output_tokens, now

    def closed(self, entry: Entry, outcome: RequestOutcome, cause: str | None) -> None:
        """`entry` has ended. cause: the code of the error, if that ended it."""
        if self._is_probe(entry):
            if outcome == "completed":
                self._metrics.probed()
            return
        self.advanced(entry)
        record = record_of(entry, outcome, cause)
        self._metrics.finished(record)
        if self._settings.log_requests:
            write_log_line(record)

    def freed(self, entry: Entry) -> None:
        """The engine has given up `entry`, which was cancelled, and its slot. Any thread."""
        if not self._is_probe(entry):
            self._metrics.freed((time.monotonic_ns() - entry.present_ns) / 1e9)

    def _is_probe(self, entry: Entry) -> bool:
        return entry.request_id == self._settings.probe_id != ""
