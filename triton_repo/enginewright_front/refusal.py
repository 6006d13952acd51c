"""How an error leaves the server: one line of text that ends with its code, and Triton's status for it.

A status is lost when an error passes through another model (BLS answers INTERNAL on Triton 2.51); the code in
the text is not, so `llm_unary` restores the status from it.
"""

from __future__ import annotations

import re

from enginewright_errors import EnginewrightError, UsageError

INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"

_STATUS = {
    "invalid-request": INVALID_ARG,
    "sequence-too-long": INVALID_ARG,
    "queue-full": UNAVAILABLE,
    "engine-stalled": UNAVAILABLE,
    "shutting-down": UNAVAILABLE,
    "request-time-limit": CANCELLED,
}
_CODE = re.compile(r"\[([a-z0-9-]+)\]$")


class InvalidRequest(UsageError):
    """A request that cannot be right. `field` is what to change; the message begins with it."""

    def __init__(self, field: str, problem: str, *, hint: str, code: str = "invalid-request") -> None:
        super().__init__(f"{field} {problem}", code=code, hint=hint)
        self.field = field


def wire_message(error: EnginewrightError) -> str:
    """`MESSAGE; HINT [CODE]`."""
    hint = f"; {error.hint}" if error.hint else ""
    return f"{error.message}{hint} [{error.code}]"


def status_of(message: str) -> str:
    """The name of the TritonError status of a `wire_message`; INTERNAL for any other text."""
    found = _CODE.search(message)
    return _STATUS.get(found.group(1), INTERNAL) if found else INTERNAL
