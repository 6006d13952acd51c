"""How long a call may still take, and whether it may be tried again. Does no input or output."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from enginewright_client._exceptions import (
    ConnectError,
    RequestError,
    RequestTimeout,
    ServerOverloaded,
    TLSError,
)
from enginewright_client._failure import from_transport_error
from enginewright_client._options import Retry, Timeout
from enginewright_client._transport import TransportError

__all__ = ["Limits"]

_A_YEAR = 365 * 86400.0  # gRPC's clock overflows beyond 292, and then the deadline is over at once


class Limits:
    """The time that is left of a call, and whether it may be tried again.

    lost: called when the connection was lost: the server that comes back may be another.
    """

    def __init__(
        self,
        address: str,
        request_id: str,
        timeout: Timeout,
        retry: Retry | None,
        lost: Callable[[], None],
    ) -> None:
        self.address = address
        self.request_id = request_id
        self._timeout = timeout
        self._retry = retry
        self._lost = lost
        self._start = time.monotonic()
        self._failures = 0

    def time_left(self) -> float | None:
        """Seconds; None = no limit. Raises RequestTimeout when it is over."""
        return self._left(self._timeout.total, "timeout")

    def first_token_left(self) -> float | None:
        """Seconds until the answer must have begun; None = no limit. Raises RequestTimeout."""
        return self._left(self._timeout.first_token, "first-token-timeout")

    def shortest_left(self) -> float | None:
        """Seconds that a call before the request itself may take; None = no limit. Raises RequestTimeout."""
        left = [seconds for seconds in (self.time_left(), self.first_token_left()) if seconds is not None]
        return min(left, default=None)

    def failure(self, error: TransportError) -> RequestError:
        """The error of a call that failed."""
        if error.status == "DEADLINE_EXCEEDED":
            first, total = self._timeout.first_token, self._timeout.total
            waited = time.monotonic() - self._start
            early = first is not None and first <= waited and (total is None or waited < total)
            return self.too_late("first-token-timeout" if early else "timeout")
        failure = from_transport_error(error, self.address, self.request_id)
        if isinstance(failure, ConnectError):
            self._lost()
        return failure

    def too_late(self, code: str) -> RequestTimeout:
        """The error of a limit that is over: `timeout` or `first-token-timeout`."""
        if code == "first-token-timeout":
            seconds, what, hint = self._timeout.first_token, "first token", "the queue is long: ask later"
        else:
            seconds, what, hint = self._timeout.total, "complete answer", "ask for fewer tokens"
        within = "in time" if seconds is None else f"within {seconds:g} s"
        return RequestTimeout(
            f"no {what} from {self.address} {within}",
            code=code,
            hint=f"give more time, or {hint}",
            request_id=self.request_id,
        )

    def pause(self, error: RequestError) -> float | None:
        """Seconds to wait before the next attempt; None = there is none."""
        self._failures += 1
        if self._retry is None or self._failures >= self._retry.attempts:
            return None
        if not isinstance(error, (ConnectError, ServerOverloaded)) or isinstance(error, TLSError):
            return None
        pause = self._retry.pause(self._failures, random.random())
        total = self._timeout.total
        if total is not None and time.monotonic() + pause >= self._start + total:
            return None
        return pause

    def _left(self, seconds: float | None, code: str) -> float | None:
        if seconds is None:
            return None
        left = self._start + seconds - time.monotonic()
        if left <= 0:
            raise self.too_late(code)
        return min(left, _A_YEAR)
