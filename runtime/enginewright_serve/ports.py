"""TCP ports of this machine: find a free one, say who holds a busy one."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from enginewright_errors import UsageError

__all__ = ["choose_port"]

_LISTENING = "0A"


def choose_port(host: str, port: int | None, option: str) -> int:
    """`port` if it is free at `host`; None takes any free one.

    Raises UsageError that names the process that holds the port, and `option`, with which to choose another.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port or 0))
        except OverflowError:
            raise UsageError(
                f"port {port} is not between 1 and 65535",
                code="bad-port",
                hint=f"choose another with {option}",
            ) from None
        except OSError as error:
            if port is None:
                raise _cannot_bind(host, error) from None
            raise _busy(host, port, option, error) from None
        chosen: int = probe.getsockname()[1]
        return chosen


def _busy(host: str, port: int, option: str, error: OSError) -> UsageError:
    if error.errno in (13, 1):
        return UsageError(
            f"port {port} needs privileges: {error.strerror}",
            code="port-refused",
            hint=f"choose one above 1023 with {option}",
        )
    if error.errno != 98:
        return _cannot_bind(host, error)
    holder = _holder(port)
    return UsageError(
        f"port {port} of {host} is in use" + (f" by {holder}" if holder else ""),
        code="port-busy",
        hint=f"stop it, or choose another port with {option}",
    )


def _cannot_bind(host: str, error: OSError) -> UsageError:
    return UsageError(
        f"cannot listen at {host}: {error.strerror}",
        code="bad-host",
        hint="--host takes an address of this machine, 127.0.0.1 by default",
    )


def _holder(port: int) -> str | None:
    """`pid 123 (command)` of the process that listens on `port`, where /proc lets us see it."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(descriptor) in sockets:  # noqa: PTH115
                process = descriptor.parent.parent
                words = (process / "cmdline").read_bytes().split(b"\0")
                name = Path(os.fsdecode(words[0])).name or (process / "comm").read_text().strip()
                return f"pid {process.name} ({name})"
    return None


def _listening_inodes(port: int) -> list[str]:
    inodes = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.append(fields[9])
    return inodes
