"""Does a server that runs still work? Asked with real inferences, judged with patience for a busy engine.

A probe without an answer says little: behind a long queue, or while a long prompt is read, it waits its turn.
So the front's metrics decide. While there are requests its thread that answers shows a sign of life every
second (`enginewright_alive_timestamp_seconds`), and the front itself watches the engine's steps and says
`engine-stalled` when they cease. When the probe is unanswered and that sign has stopped, or there is nothing
that the probe could wait for (`enginewright_requests_unanswered` is 0), the server is taken for hung. Triton
2.51 itself can do that: a stream that is reset while a response is written may lock it up for good.

The sign is looked at twice a second, which costs the engine nothing, and a probe sent when it stands still: a
server that locks up under load is found out within 8 seconds, and one that was stopped for 5 is left alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import ProxyHandler, build_opener

from enginewright_serve.probe import Probe

__all__ = ["HealthCheck", "HealthPolicy", "sign_of_life"]

_ALIVE = "enginewright_alive_timestamp_seconds"
_UNANSWERED = "enginewright_requests_unanswered"
_ACTIVE = "enginewright_requests_active"  # what an older front tells of them
_RETRY_SECONDS = 1.0
_METRICS_SECONDS = 1.0
_LOOK_SECONDS = 0.5
_STILL_SECONDS = 3.0  # the sign changes every second, and is seen up to two seconds later


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """probe_seconds: between probes, unless the front's sign of life stands still. silence_seconds: how long
    both probe and front may then be silent.

    failures: errors in a row, in place of a token, that are taken for an engine that is broken.
    """

    probe_seconds: float = 10.0
    silence_seconds: float = 4.0
    failures: int = 3


class HealthCheck:
    """A thread that probes until `stop`, or until there is a `verdict`: why the server is taken for dead."""

    def __init__(self, probe: Probe, sign: Callable[[], float | None], policy: HealthPolicy) -> None:
        """sign: a number that changes while the front works; None where there is none. See `sign_of_life`."""
        self.verdict: str | None = None
        self._probe = probe
        self._sign = sign
        self._policy = policy
        self._seen: float | None = None
        self._moved_at = 0.0
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def stop(self) -> None:
        """End the thread; a probe that is under way is cancelled."""
        self._stopping.set()
        self._probe.close()

    def _run(self) -> None:
        pause = self._policy.probe_seconds
        look, probe_at = min(_LOOK_SECONDS, pause), time.monotonic() + pause
        while self.verdict is None and not self._stopping.wait(look):
            stands_still = self._still_for() >= _STILL_SECONDS and self._seen is not None
            if stands_still or time.monotonic() >= probe_at:
                verdict = self._judge()
                if not self._stopping.is_set():
                    self.verdict = verdict
                probe_at = time.monotonic() + pause

    def _still_for(self) -> float:
        """For how many seconds the front's sign has not changed."""
        sign, now = self._sign(), time.monotonic()
        if sign != self._seen:
            self._seen, self._moved_at = sign, now
        return now - self._moved_at

    def _judge(self) -> str | None:
        """Why the server is dead; None when it works, however slowly."""
        failures = 0
        self._moved_at = time.monotonic()
        while not self._stopping.is_set():
            result = self._probe.ask(self._policy.silence_seconds)
            if result.outcome in ("works", "busy"):
                return None
            if result.outcome == "stalled":
                return f"the engine hangs: {result.message}"
            if result.outcome == "fails":
                failures += 1
                if failures >= self._policy.failures:
                    return f"{failures} inferences in a row failed: {result.message}"
                self._moved_at = time.monotonic()
            elif self._still_for() >= self._policy.silence_seconds:
                return f"the server hangs: no answer for {self._policy.silence_seconds:g} s"
            if result.outcome != "silent":
                self._stopping.wait(_RETRY_SECONDS)
        return None


def sign_of_life(metrics_address: str) -> float | None:
    """The front's last sign of life; None where its metrics do not tell, or no request is running; 0 while
    they do not come."""
    opener = build_opener(ProxyHandler({}))
    figures = {}
    try:
        with opener.open(f"http://{metrics_address}/metrics", timeout=_METRICS_SECONDS) as page:
            for line in page.read().decode(errors="replace").splitlines():
                name, _, value = line.rpartition(" ")
                figures[name.partition("{")[0]] = value
        requests = figures.get(_UNANSWERED) or figures[_ACTIVE]
        return float(figures[_ALIVE]) if float(requests) else None
    except TimeoutError:
        return 0.0
    except (OSError, ValueError, KeyError):
        return None
