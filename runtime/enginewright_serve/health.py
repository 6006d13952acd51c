"""Does a server that runs still work? Asked with real inferences, judged with patience for a busy engine.

A probe without an answer says little: behind a long queue, or while a long prompt is read, it waits its turn.
So the front's metrics decide. While there are requests its thread that answers shows a sign of life every
second (`enginewright_alive_timestamp_seconds`), and the front itself watches the engine's steps and says
`engine-stalled` when they cease. When the probe is unanswered and that sign has stopped, or there is nothing
that the probe could wait for (`enginewright_requests_active` is 0), the server is taken for hung. Triton 2.51
itself can do that: a stream that is cancelled while a response is written may lock it up for good.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import ProxyHandler, build_opener

from enginewright_serve.probe import Probe

__all__ = ["HealthCheck", "HealthPolicy", "sign_of_life"]

_ALIVE, _ACTIVE = "enginewright_alive_timestamp_seconds", "enginewright_requests_active"
_RETRY_SECONDS = 1.0
_METRICS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """probe_seconds: between probes. silence_seconds: how long both probe and front may be silent.

    failures: errors in a row, in place of a token, that are taken for an engine that is broken.
    """

    probe_seconds: float = 10.0
    silence_seconds: float = 15.0
    failures: int = 3


class HealthCheck:
    """A thread that probes until `stop`, or until there is a `verdict`: why the server is taken for dead."""

    def __init__(self, probe: Probe, sign: Callable[[], float | None], policy: HealthPolicy) -> None:
        """sign: a number that changes while the front works; None where there is none."""
        self.verdict: str | None = None
        self._probe = probe
        self._sign = sign
        self._policy = policy
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def stop(self) -> None:
        """End the thread; a probe that is under way is cancelled."""
        self._stopping.set()
        self._probe.close()

    def _run(self) -> None:
        while self.verdict is None and not self._stopping.wait(self._policy.probe_seconds):
            verdict = self._judge()
            if not self._stopping.is_set():
                self.verdict = verdict

    def _judge(self) -> str | None:
        """Why the server is dead; None when it works, however slowly."""
        failures = 0
        seen, moved_at = self._sign(), time.monotonic()
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
            sign = self._sign()
            if sign != seen or result.outcome == "fails":
                seen, moved_at = sign, time.monotonic()
            elif time.monotonic() - moved_at >= self._policy.silence_seconds:
                return f"the server hangs: no answer for {self._policy.silence_seconds:g} s"
            if result.outcome != "silent":
                self._stopping.wait(_RETRY_SECONDS)
        return None


def sign_of_life(metrics_address: str) -> float | None:
    """The front's last sign of life; None where its metrics do not tell, or no request is running."""
    opener = build_opener(ProxyHandler({}))
    figures = {}
    try:
        with opener.open(f"http://{metrics_address}/metrics", timeout=_METRICS_SECONDS) as page:
            for line in page.read().decode(errors="replace").splitlines():
                name, _, value = line.rpartition(" ")
                figures[name.partition("{")[0]] = value
        return float(figures[_ALIVE]) if float(figures[_ACTIVE]) else None
    except (OSError, ValueError, KeyError):
        return None
