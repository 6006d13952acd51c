"""Keeps a server up: what has died or hangs is started again, until that is plainly no use."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from enginewright_errors import StageFailed

from enginewright_serve.health import HealthCheck, HealthPolicy, sign_of_life
from enginewright_serve.server_base import ServerBase

__all__ = ["Supervisor", "SupervisorPolicy"]

_TICK = 0.25


@dataclass(frozen=True, slots=True)
class SupervisorPolicy:
    """restarts: more than so many within `window_seconds` end the service.

    The first restart comes at once, the next ones after `pause_seconds`, doubled up to `most_pause_seconds`.
    """

    health: HealthPolicy = field(default_factory=HealthPolicy)
    restarts: int = 5
    window_seconds: float = 600.0
    pause_seconds: float = 1.0
    most_pause_seconds: float = 30.0


class Supervisor:
    """Watches a started `server`. report: gets a line for every restart.

    All of Triton is started again, not the model alone. Reloading a model would need
    `--model-control-mode=explicit`, which opens the repository to whoever finds the key; it saves half a
    second; and it does not help when Triton itself is what broke. The requests of a dead model process, which
    Triton would leave without an answer, end at once with the connection.
    """

    def __init__(
        self,
        server: ServerBase,
        report: Callable[[str], None],
        policy: SupervisorPolicy | None = None,
    ) -> None:
        self._server = server
        self._report = report
        self._policy = policy or SupervisorPolicy()
        self._restarts: deque[float] = deque()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until `stop`, or until an exception: StageFailed when the server fails too often."""
        while not self._stopping.is_set():
            if trouble := self._wait_for_trouble():
                self._restart(trouble)

    def stop(self) -> None:
        """Let `run` return, from any thread. The server goes on, unsupervised."""
        self._stopping.set()

    def _wait_for_trouble(self) -> str | None:
        address = self._server.metrics_address
        health = HealthCheck(self._server.open_probe(), lambda: sign_of_life(address), self._policy.health)
        try:
            while health.verdict is None and not self._stopping.is_set():
                if trouble := self._server.trouble(_TICK):
                    return trouble
            return health.verdict
        finally:
            health.stop()

    def _restart(self, reason: str) -> None:
        """Until it works again."""
        while not self._stopping.is_set():
            self._pause(reason)
            started = time.monotonic()
            self._restarts.append(started)
            try:
                self._server.restart()
            except StageFailed as error:
                reason = error.message
            else:
                self._report(f"restarted in {time.monotonic() - started:.1f} s: {reason}")
                return

    def _pause(self, reason: str) -> None:
        policy = self._policy
        while self._restarts and time.monotonic() - self._restarts[0] > policy.window_seconds:
            self._restarts.popleft()
        count = len(self._restarts)
        if count >= policy.restarts:
            raise self._server.failure(
                f"the server failed again after {count} restarts in {policy.window_seconds:g} s: {reason}"
            )
        if count:
            self._stopping.wait(min(policy.pause_seconds * 2 ** (count - 1), policy.most_pause_seconds))
