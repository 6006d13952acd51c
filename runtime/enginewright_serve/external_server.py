"""A Triton that another program starts, `mpirun` or `docker run`: up after a token, and stopped in order.

Started so, a server is not the keeper's child. Its signals have to reach it by another way: docker's own
commands, or, under mpirun, straight to rank 0. mpirun would hand a signal to all ranks at once, and kill them
soon after; rank 0 ends the others itself when its requests are done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from enginewright_serve.access import Access
from enginewright_serve.process import TritonProcess
from enginewright_serve.server_base import Command, ServerBase, not_started

__all__ = ["ExternalServer"]

_GRACE = 10.0  # seconds beyond the server's own exit timeout


class ExternalServer(ServerBase):
    """Runs what `command` gives from `start()` to `stop()`.

    command: called with a new private folder; its name and "_" begin the names of the server's shared memory.
    It hands `FRONT_VARIABLES` on to the server. host: what clients reach it by. grpc_address,
    metrics_address: where it will answer. access: TLS and a token, for its probes. log_requests: a line in
    the log for each finished request. log: where the output goes, by default a temporary file that is kept
    only when the server fails. ready_timeout: seconds to the first generated token. exit_timeout: seconds
    that running requests have to end when the server is stopped, and that the server may take after them.
    """

    def __init__(
        self,
        command: Callable[[Path], Command],
        *,
        host: str,
        grpc_address: str,
        metrics_address: str,
        access: Access | None = None,
        log_requests: bool = True,
        log: Path | None = None,
        ready_timeout: float = 1800.0,
        exit_timeout: float = 60.0,
    ) -> None:
        super().__init__(
            host=host,
            access=access,
            log_requests=log_requests,
            log=log,
            ready_timeout=ready_timeout,
            end_seconds=exit_timeout + _GRACE,
        )
        self._make = command
        self._addresses = grpc_address, metrics_address
        self._made: Command | None = None

    @property
    def grpc_address(self) -> str:
        """`host:port` for clients."""
        return self._addresses[0]

    @property
    def metrics_address(self) -> str:
        """`host:port` of Prometheus metrics, at /metrics."""
        return self._addresses[1]

    def _prepare(self, folder: Path) -> None:
        self._made = self._make(folder)

    def _command(self) -> Command:
        if self._made is None:
            raise not_started()
        return self._made

    def _end_process(self, process: TritonProcess, *, kill: bool) -> None:
        command = self._command()
        if kill:
            _call(command.remove)
        elif command.stop:
            _call(command.stop)
        else:
            self._end_leader(process)
        process.stop(kill=kill)
        # Killed while it was still asking for its container, docker leaves one behind.
        _call(command.remove)

    def _end_leader(self, process: TritonProcess) -> None:
        """Ask rank 0 to end, and wait for the rest; without effect where the server is the command itself."""
        leader = _leader(self._prefix)
        if leader is None or leader == process.pid:
            return
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGTERM)
        deadline = time.monotonic() + self._end_seconds
        while time.monotonic() < deadline and not process.ended(0.5):
            pass


def _leader(prefix: str) -> int | None:
    """The process id of the tritonserver of rank 0, which its shared memory's names tell from others."""
    region = f"python,shm-region-prefix-name={prefix}0_"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, *words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
            if Path(program).name == "tritonserver" and f"--backend-config={region}" in words:
                return int(process.name)
    return None


def _call(command: tuple[str, ...]) -> None:
    """Run a command of docker's, whose complaint that there is no such container is no trouble."""
    if command:
        with suppress(OSError):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
