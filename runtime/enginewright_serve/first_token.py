"""Waits until a server has generated a token: nothing less says that all of it works."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from enginewright_serve.probe import Probe, ProbeResult

__all__ = ["NoToken", "wait_for_token"]

_TICK = 0.05


class NoToken(Exception):
    """The server runs and generates nothing: its text says why, in one line."""


def wait_for_token(
    open_probe: Callable[[], Probe],
    address: str,
    trouble: Callable[[float], str | None],
    *,
    seconds: float,
    others: Sequence[str] = (),
) -> bool:
    """Whether the server at `address` generates; False when it ended before it did.

    others: its other addresses, which Triton opens a moment later. trouble: says what of the server has
    ended, and waits for it for so many seconds. Raises NoToken when there is no token within `seconds`, or an
    error instead of one.
    """
    deadline = time.monotonic() + seconds
    while not trouble(_TICK):
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoToken(f"the server generated no token within {seconds:g} s")
        if not _answers(address):
            continue
        result = _ask(open_probe(), trouble, left)
        if result.outcome == "works" and all(map(_listens, others)):
            return True
        if result.outcome in ("fails", "stalled"):
            raise NoToken(f"the server started but generates nothing: {_without_hint(result.message)}")
    return False


def _ask(probe: Probe, trouble: Callable[[float], str | None], seconds: float) -> ProbeResult:
    """The probe's result; cut short when the server ends meanwhile."""
    with ThreadPoolExecutor(1, "probe") as thread:
        asked = thread.submit(probe.ask, seconds)
        try:
            while not asked.done() and not trouble(_TICK):
                pass
        finally:
            probe.close()
    return asked.result()


def _answers(address: str) -> bool:
    """Whether somebody is there. Docker's proxy takes a connection too, and hangs up while its container does
    not listen; a gRPC server speaks first, or waits, under TLS."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0) as connection:
            return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def _without_hint(message: str) -> str:
    """A front's message without its hint and code, which are for users."""
    return message.rpartition(" [")[0].rpartition("; ")[0] or message
