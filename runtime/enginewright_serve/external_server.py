"""A Triton that another program starts, `mpirun` or `docker run`: up after a token, and stopped in order.

Started so, a server is not the keeper's child. Its signals have to reach it by another way: docker's own
commands, or, under mpirun, straight to rank 0. mpirun would hand a signal to all ranks at once, and kill them
soon after; rank 0 ends the others itself when its requests are done.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from enginewright_client import TritonClient
from enginewright_errors import StageFailed, UsageError

from enginewright_serve.first_token import NoToken, wait_for_token
from enginewright_serve.launcher_failure import launcher_failure
from enginewright_serve.process import TritonProcess
from enginewright_serve.repository import MODEL

__all__ = ["Command", "ExternalServer"]

_GRACE = 10.0  # seconds beyond the server's own exit timeout


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a server. argv: it stays in the foreground, and ends with the server.

    environment: beside this process's. stop, remove: commands that end the server in order and at once; when
    they are empty, signals do.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class ExternalServer:
    """Runs what `command` gives from `start()` to `stop()`.

    command: called with a new private folder; its name and "_" begin the names of the server's shared memory.
    grpc_address, metrics_address, http_address: where it will answer. log: where the output goes, by default
    a temporary file that is kept only when the server fails. ready_timeout: seconds to the first generated
    token. exit_timeout: seconds that the server gives running requests when it is stopped.
    """

    def __init__(
        self,
        command: Callable[[Path], Command],
        *,
        grpc_address: str,
        metrics_address: str,
        http_address: str | None = None,
        log: Path | None = None,
        ready_timeout: float = 1800.0,
        exit_timeout: float = 60.0,
    ) -> None:
        self.grpc_address, self.metrics_address, self.http_address = (
            grpc_address,
            metrics_address,
            http_address,
        )
        self._make, self._given_log = command, log
        self._ready_timeout, self._exit_timeout = ready_timeout, exit_timeout
        self._folder: Path | None = None  # made by start(), removed by stop()
        self._command: Command | None = None
        self._process: TritonProcess | None = None
        self._failed = False

    @property
    def log(self) -> Path:
        """The file with the output of the command and the server."""
        return self._given_log or self._private / "server.log"

    @property
    def pid(self) -> int | None:
        """The process id of the command, once it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and return when a token has been generated.

        Raises UsageError for a log that cannot be written, StageFailed when the server does not start. Then,
        or when it is interrupted, nothing is left behind but the log.
        """
        if self._process is not None:
            raise UsageError("the server was started already", code="already-started", hint="stop it first")
        self._failed = False
        self._folder = Path(tempfile.mkdtemp(prefix="enginewright-serve-"))
        try:
            self._open_log()
            self._command = self._make(self._private)
            self._process = TritonProcess(
                self._command.argv,
                {**os.environ, **self._command.environment},
                log=self.log,
                folder=self._private,
                prefix=f"{self._private.name}_",
                grace=self._exit_timeout + _GRACE,
            )
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop(kill=True)  # it serves nobody yet
            raise

    def wait(self) -> None:
        """Return when the server has ended, which it does by itself only by failing: raises StageFailed."""
        process = self._process
        while process is not None and not process.ended(1.0):
            pass
        raise self._failure("the server ended", self._reason())

    def stop(self, *, kill: bool = False) -> None:
        """End the server and everything it started, at once with `kill`.

        Without effect on a server that is not running. Interrupted, it may be called again.
        """
        process, command = self._process, self._command
        if process is not None and command is not None:
            if kill:
                _run(command.remove)
            elif command.stop:
                _run(command.stop)
            else:
                self._end_leader(process)
            process.stop(kill=kill)
            # Killed while it was still asking for its container, docker leaves one behind.
            _run(command.remove)
            self._process = None
        if self._folder is not None and self._folder.is_dir():
            kept = self.log if self._failed else None
            for path in self._folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path != kept:
                    path.unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    @property
    def _private(self) -> Path:
        if self._folder is None:
            raise UsageError("the server was not started", code="not-started", hint="call start() first")
        return self._folder

    def _open_log(self) -> None:
        try:
            self.log.write_bytes(b"")
        except OSError as error:
            raise UsageError(
                f"the log {self.log} cannot be written: {error.strerror}",
                code="bad-log",
                hint="change --log-file",
            ) from None

    def _wait_until_ready(self, process: TritonProcess) -> None:
        with TritonClient(self.grpc_address, model=MODEL) as client:
            try:
                if wait_for_token(client, self.grpc_address, process.ended, seconds=self._ready_timeout):
                    return
            except NoToken as error:
                raise self._failure(str(error)) from error
        raise self._failure("the server did not start", self._reason())

    def _end_leader(self, process: TritonProcess) -> None:
        """Ask rank 0 to end, and wait for the rest; without effect where the server is the command itself."""
        leader = _leader(f"{self._private.name}_")
        if leader is None or leader == process.pid:
            return
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGTERM)
        deadline = time.monotonic() + self._exit_timeout + _GRACE
        while time.monotonic() < deadline and not process.ended(0.5):
            pass

    def _reason(self) -> str:
        process = self._process
        return launcher_failure(self.log.read_bytes()) or (process.reason() if process is not None else "")

    def _failure(self, what: str, reason: str = "") -> StageFailed:
        self._failed = True
        return StageFailed(
            f"{what}: {reason}" if reason else what, code="server-failed", hint=f"its log is {self.log}"
        )


def _leader(prefix: str) -> int | None:
    """The process id of the tritonserver of rank 0, which its shared memory's names tell from others."""
    region = f"python,shm-region-prefix-name={prefix}0_"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, *words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
            if Path(program).name == "tritonserver" and f"--backend-config={region}" in words:
                return int(process.name)
    return None


def _run(command: tuple[str, ...]) -> None:
    """Run a command of docker's, whose complaint that there is no such container is no trouble."""
    if command:
        with suppress(OSError):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
