"""TCP ports of this machine: find free ones, say who holds a busy one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from enginewright_errors import UsageError

__all__ = ["choose_ports", "client_address"]

_LISTENING = "0A"


def client_address(host: str, port: int) -> str:
    """`host:port` for clients on this machine, of a server that listens at `host`."""
    return f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def choose_ports(host: str, wanted: Mapping[str, int | None]) -> list[int]:
    """The ports `wanted`, by the option that names them, if all are free at `host`; None takes any free one.

    Raises UsageError that names the process that holds a port, and the option with which to choose another.
    """
    with ExitStack() as probes:  # each is held until all are found, so that no two are the same
        chosen: dict[str, int] = {}
        for option, port in sorted(
            wanted.items(), key=lambda item: item[1] is None
        ):  # any free one: after the rest
            for other, taken in chosen.items():
                if port == taken:
                    raise UsageError(
                        f"{other} and {option} are both {port}",
                        code="port-twice",
                        hint="change one of them",
                    )
            chosen[option] = _hold(probes, host, port, option)
        return [chosen[option] for option in wanted]


def _hold(probes: ExitStack, host: str, port: int | None, option: str) -> int:
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(
            f"port {port} is not between 1 and 65535", code="bad-port", hint=f"choose another with {option}"
        )
    probe = probes.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port or 0))
        probe.listen()
    except OSError as error:
        raise _cannot_bind(host, error) if port is None else _busy(host, port, option, error) from None
    number: int = probe.getsockname()[1]
    return number


def _busy(host: str, port: int, option: str, error: OSError) -> UsageError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return UsageError(
            f"port {port} needs privileges: {error.strerror}",
            code="port-refused",
            hint=f"choose one above 1023 with {option}",
        )
    if error.errno != errno.EADDRINUSE:
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
        hint="--host takes an IPv4 address of this machine, 127.0.0.1 by default",
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
