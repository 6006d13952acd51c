"""What docker or mpirun says that cannot start a server, and TensorRT-LLM that cannot load an engine."""

from __future__ import annotations

import re

__all__ = ["launcher_failure"]

_TAIL_BYTES = 2**20
# The first that matches speaks. Triton's own line only repeats that a model failed.
_REASONS = (
    re.compile(r"^docker: (?:Error response from daemon: )?(?P<reason>.+)", re.MULTILINE),
    re.compile(
        r"\[TensorRT-LLM\]\[ERROR\] (?:\d+: )?(?P<reason>[^\n]*(?:Version tag|compute \d|out of memory).*)"
    ),
    re.compile(r"\[TensorRT-LLM\]\[ERROR\] (?P<reason>Assertion failed: .+)"),
    re.compile(r"(?P<reason>There are not enough slots available in the system[^\n]*)"),
)


def launcher_failure(log: bytes) -> str:
    """The reason in a log, one line; empty when it names none of those."""
    text = log[-_TAIL_BYTES:].decode(errors="replace")
    for pattern in _REASONS:
        if found := pattern.search(text):
            return found["reason"].strip().rstrip(".")
    return ""
