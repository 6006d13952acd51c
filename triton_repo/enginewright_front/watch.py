"""The watch over running requests: who was cancelled, who runs too long, and whether the engine still moves.

Asking for a cancellation is a message to the server and back (10 to 110 microseconds, as much as a response
costs), so it has a thread of its own and happens every 50 ms a request, not at every token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from enginewright_errors import EnginewrightError

from enginewright_front.backend import EngineBackend
from enginewright_front.entry import Entry
from enginewright_front.front_config import FrontLimits
from enginewright_front.metrics import Metrics

POLL_SECONDS = 0.05
_LOAD_SECONDS = 1.0


class Watch:
    """A thread that sleeps while there are no requests.

    entries: the requests to look at. cancel: ends one whose caller gave up. end: ends one with an error.
    round_trip: asks the thread that answers for a sign of life, and says when the last one came (in seconds
    since 1970).
    """

    def __init__(
        self,
        entries: Callable[[], Sequence[Entry]],
        cancel: Callable[[Entry], None],
        end: Callable[[Entry, EnginewrightError], None],
        round_trip: Callable[[], float],
        backend: EngineBackend,
        limits: FrontLimits,
        metrics: Metrics,
    ) -> None:
        self._entries = entries
        self._cancel = cancel
        self._end = end
        self._round_trip = round_trip
        self._backend = backend
        self._limits = limits
        self._metrics = metrics
        self._pulse = -1
        self._moved_at = 0.0
        self._stalled_pulse: int | None = None
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a request to look at, or the end of one to show."""
        self._work.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def check_engine(self) -> None:
        """Raises EnginewrightError while the engine hangs; one step of it, however late, clears that."""
        if self._stalled_pulse is not None and self._backend.pulse() == self._stalled_pulse:
            raise self._stalled()

    def _run(self) -> None:
        load_at = 0.0
        while not self._stopping.is_set():
            self._work.clear()
            entries = self._entries()
            now = time.monotonic()
            if now >= load_at or not entries:
                stats = self._backend.stats()
                self._metrics.publish(stats, self._round_trip(), len(entries))
                load_at = now + _LOAD_SECONDS
                # An engine frees a slot after its request was answered: look until it has, then sleep.
                if not entries and not stats.active and not stats.waiting:
                    self._work.wait()
                    # Not once for each of many requests that are refused at once.
                    self._stopping.wait(POLL_SECONDS)
                    continue
            self._end_cancelled(entries)
            self._end_overdue(entries, now)
            self._end_stalled(entries, now)
            # Under a long queue a round takes long: leave the processor to others most of the time.
            self._stopping.wait(max(POLL_SECONDS, 4 * (time.monotonic() - now)))

    def _end_cancelled(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            looked_ns = time.monotonic_ns()
            if entry.sink.is_cancelled():
                self._cancel(entry)
            else:
                entry.present_ns = looked_ns

    def _end_overdue(self, entries: Sequence[Entry], now: float) -> None:
        for entry in entries:
            if now - entry.arrival_ns / 1e9 > self._limits.max_seconds:
                self._end(
                    entry,
                    EnginewrightError(
                        f"the request ran {self._limits.max_seconds:g} s, the most this server allows",
                        code="request-time-limit",
                        hint="ask for fewer tokens",
                    ),
                )

    def _end_stalled(self, entries: Sequence[Entry], now: float) -> None:
        running = [entry for entry in entries if entry.handle is not None]
        pulse = self._backend.pulse()
        if pulse != self._pulse or not running:
            self._pulse, self._moved_at = pulse, now
            self._stalled_pulse = None
        elif now - self._moved_at > self._limits.stall_seconds:
            self._stalled_pulse = pulse
            for entry in running:
                self._end(entry, self._stalled())

    def _stalled(self) -> EnginewrightError:
        return EnginewrightError(
            f"the engine made no step for {self._limits.stall_seconds:g} s",
            code="engine-stalled",
            hint="restart the server if it does not recover",
        )
