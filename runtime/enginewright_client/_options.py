"""How a client behaves: timeouts, retries, keepalive, TLS. Plain values, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from enginewright_client._exceptions import InvalidRequest

__all__ = ["TLS", "Keepalive", "Retry", "Timeout"]


@dataclass(frozen=True, slots=True)
class Timeout:
    """Seconds that a request may take; None = no limit.

    connect: one attempt to reach the server, handshake included. It belongs to the connection, so it is read
    from the client's timeout and not from a call's.
    first_token: from the call to the first piece of the answer: queue and prefill.
    total: from the call to the last piece, retries included.
    When a limit is over the request is cancelled, in the engine too, and RequestTimeout is raised.

    >>> Timeout(first_token=5, total=60)
    Timeout(connect=10.0, first_token=5, total=60)
    """

    connect: float | None = 10.0
    first_token: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "first_token", "total"):
            seconds = getattr(self, name)
            if seconds is not None and not _positive(seconds):
                raise _refused(f"timeout.{name}", f"is {seconds!r}", "give seconds above 0, or None")

    @staticmethod
    def of(given: Timeout | float | None, default: Timeout) -> Timeout:
        """`given` as a Timeout: a number is the total, None is `default`.

        >>> Timeout.of(30, Timeout(first_token=2)).total
        30
        """
        if given is None:
            return default
        return given if isinstance(given, Timeout) else Timeout(total=given)


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again when the server cannot be reached or takes no more (ConnectError, ServerOverloaded).

    Only before the first piece of an answer, with the same request id, as long as the timeout allows.
    attempts: in all. The pause before the n-th repetition is `backoff` * 2^(n-1) seconds, at most
    `max_backoff`, less a random share of up to `jitter` of it, so that clients do not come back together.

    >>> Retry(attempts=4).pause(2, 0.0)
    0.4
    """

    attempts: int = 3
    backoff: float = 0.2
    max_backoff: float = 5.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise _refused("retry.attempts", f"is {self.attempts!r}", "give a whole number from 1")
        for name in ("backoff", "max_backoff"):
            if not _positive(getattr(self, name)):
                raise _refused(f"retry.{name}", f"is {getattr(self, name)!r}", "give seconds above 0")
        if not 0 <= self.jitter <= 1:
            raise _refused("retry.jitter", f"is {self.jitter!r}", "give a share from 0 to 1")

    def pause(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures; `chance` is a random number from 0 to 1."""
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(failures - 1, 60))
        return longest * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A ping after `interval` seconds without data while a request runs; no reply within `timeout` seconds
    means that the connection is lost. A dead peer is noticed within the sum.

    A stock Triton wants 300 s between pings of a silent connection and ends it at the third that comes
    earlier, so a request that waits for 120 s without a token dies there with the default. Start it with
    `--grpc-http2-min-recv-ping-interval-without-data=10000` as `enginewright serve` does, or give a longer
    interval.

    >>> Keepalive(interval=300)
    Keepalive(interval=300, timeout=10.0)
    """

    interval: float = 30.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("interval", "timeout"):
            if not _positive(getattr(self, name)):
                raise _refused(f"keepalive.{name}", f"is {getattr(self, name)!r}", "give seconds above 0")


@dataclass(frozen=True, slots=True)
class TLS:
    """An encrypted connection. Paths of PEM files, or their bytes.

    ca: who signed the server's certificate; None = the authorities that gRPC trusts.
    certificate, key: the client's own, for a server that asks for one (mutual TLS).
    server_name: the name in the server's certificate, where it is not that of the address.

    >>> TLS(ca=b"-----BEGIN CERTIFICATE-----...", key=b"secret", certificate=b"...")
    TLS(certificate=..., key=..., ca=..., server_name=None)
    """

    ca: str | Path | bytes | None = None
    certificate: str | Path | bytes | None = None
    key: str | Path | bytes | None = field(default=None)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise _refused(f"tls.{missing}", "is missing", "a client certificate needs both")

    def __repr__(self) -> str:
        """Which parts are given, never what is in them."""
        given = [f"{name}=..." for name in ("certificate", "key", "ca") if getattr(self, name) is not None]
        return f"TLS({', '.join([*given, f'server_name={self.server_name!r}'])})"

    def read(self, name: str) -> bytes | None:
        """The PEM of `ca`, `certificate` or `key`. Raises InvalidRequest for a file that cannot be read."""
        value = getattr(self, name)
        if value is None or isinstance(value, bytes):
            return value
        try:
            return Path(value).read_bytes()
        except OSError as error:
            raise _refused(
                f"tls.{name}", f"cannot be read: {value}: {error.strerror}", "give a PEM file"
            ) from None


def _positive(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and number > 0


def _refused(field: str, problem: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {problem}", code="invalid-request", hint=hint, field=field)
