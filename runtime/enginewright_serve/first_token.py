"""Waits until a server has generated a token: nothing less says that all of it works."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from enginewright_client import (
    ConnectError,
    RequestError,
    RequestTimeout,
    SamplingParams,
    ServerOverloaded,
    TritonClient,
)

__all__ = ["NoToken", "wait_for_token"]

_TICK = 0.05


class NoToken(Exception):
    """The server runs and generates nothing: its text says why, in one line."""


def wait_for_token(
    client: TritonClient, address: str, ended: Callable[[float], bool], *, seconds: float
) -> bool:
    """Whether the server at `address`, which `client` calls, generates; False when it ended before it did.

    ended: says whether the server has ended, and waits for it for so many seconds. Raises NoToken when there
    is no token within `seconds`, or an error instead of one.
    """
    deadline = time.monotonic() + seconds
    while not ended(_TICK):
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoToken(f"the server generated no token within {seconds:g} s")
        if not _answers(address):
            continue
        try:
            client.generate("Hello", SamplingParams(max_tokens=1, temperature=0.0), timeout=left)
        except (ConnectError, RequestTimeout, ServerOverloaded):
            continue
        except RequestError as error:
            raise NoToken(f"the server started but generates nothing: {error.message}") from error
        return True
    return False


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
