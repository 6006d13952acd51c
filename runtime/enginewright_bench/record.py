"""What is known of one request after it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Failure", "Phase", "RequestRecord"]

Phase = Literal["warmup", "profiling"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no complete answer. code: `queue-full`, `timeout`, ...; kind: the error's class."""

    code: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Times are nanoseconds of `clock.now_ns`.

    scheduled_ns: when the request should have been sent, from which latencies count; in a closed loop it is
    start_ns, when it was sent. text_ns: the arrival of each message with text. end_ns: the arrival of the
    last message, or of the failure. Tokens are the server's counts, None without a complete answer.
    """

    index: int
    request_id: str
    phase: Phase
    scheduled_ns: int
    start_ns: int
    end_ns: int
    text_ns: tuple[int, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    text: str = ""
    failure: Failure | None = None
