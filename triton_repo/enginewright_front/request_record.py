"""What is kept of a finished request: for the metrics, and as a line of the log. Never its text."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from enginewright_front.entry import Entry

__all__ = ["OUTCOMES", "RequestOutcome", "RequestRecord", "record_of", "write_log_line"]

RequestOutcome = Literal["completed", "cancelled", "refused", "failed"]
OUTCOMES: tuple[RequestOutcome, ...] = ("completed", "cancelled", "refused", "failed")

_ID_CHARACTERS = 64
_STDERR = 2


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Times in seconds from the request's arrival; None for what did not come about or is not known.

    cause: the code of the error that ended it. finish: why the text ended. scheduled: when it got a slot.
    """

    request_id: str
    outcome: RequestOutcome
    cause: str | None
    finish: str | None
    prompt_tokens: int
    output_tokens: int
    scheduled: float | None
    first_token: float | None
    total: float


def record_of(entry: Entry, outcome: RequestOutcome, cause: str | None) -> RequestRecord:
    """What is to be remembered of `entry`, which ends now."""
    session = entry.session

    def since_arrival(stamp_ns: int) -> float | None:
        return (stamp_ns - entry.arrival_ns) / 1e9 if stamp_ns else None

    return RequestRecord(
        request_id=entry.request_id,
        outcome=outcome,
        cause=cause,
        finish=session.outcome if session else None,
        prompt_tokens=session.num_input_tokens if session else 0,
        output_tokens=session.num_output_tokens if session else 0,
        scheduled=since_arrival(session.first_scheduled_ns) if session else None,
        first_token=since_arrival(session.first_token_ns) if session else None,
        total=(time.monotonic_ns() - entry.arrival_ns) / 1e9,
    )


def write_log_line(record: RequestRecord) -> None:
    """One line of JSON to the process's standard error, which is the server's log.

    6 microseconds a request. Python's logging takes 11, and Triton's logger is a message to the server, whose
    prefix also makes the line no JSON.
    """
    fields = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "event": "request",
        # The caller's own words: so they are quoted, and no longer than an id should be.
        "id": record.request_id[:_ID_CHARACTERS],
        "outcome": record.outcome,
        "cause": record.cause,
        "finish": record.finish,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "queue_ms": _milliseconds(record.scheduled),
        "first_token_ms": _milliseconds(record.first_token),
        "total_ms": _milliseconds(record.total),
    }
    # One write, so that lines of several processes do not mix.
    os.write(_STDERR, (json.dumps(fields) + "\n").encode())


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
