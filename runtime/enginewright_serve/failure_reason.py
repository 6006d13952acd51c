"""The one line of a server's log that says why it did not start, or why it ended."""

from __future__ import annotations

import re

__all__ = ["failure_reason"]

_TAIL_BYTES = 2**20
# Triton complains in every start that there is no GPU.
_LINE = re.compile(r"^[EF]\d{4} [\d:.]+ \d+ \S+\] (?P<text>(?!.*(?:CUDA|Cuda|NVML|DCGM)).*)$", re.MULTILINE)
# The first that matches speaks; the more particular stand before the more general.
_REASONS = (
    re.compile(r"error while loading shared libraries: (?P<reason>.*)"),
    re.compile(r"(?P<reason>version `GLIBC\S+' not found.*)"),
    re.compile(r"tritonserver: (?P<reason>(?:unrecognized )?option .*)"),
    re.compile(r"(?P<reason>Socket '[^']*' already in use)"),
    re.compile(
        r"failed to load '(?P<model>[^']+)' version \d+: [\w ]+: (?P<reason>.+?)(?:\\n|\n|\"?$)", re.MULTILINE
    ),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.+?)\"?$", re.MULTILINE),
    re.compile(r"creating server: \w+ ?- (?P<reason>.*)"),
    re.compile(r"(?P<reason>Signal \(\d+\) received)"),
)


def failure_reason(log: bytes) -> str:
    """The reason in a log of tritonserver, its models' output included; empty when it names none."""
    text = log[-_TAIL_BYTES:].decode(errors="replace")
    for pattern in _REASONS:
        if found := pattern.search(text):
            groups = found.groupdict()
            reason = groups["reason"].strip().strip('"')
            return f"model {groups['model']}: {reason}" if groups.get("model") else reason
    errors = _LINE.findall(text)
    return errors[-1].strip('"') if errors else ""
