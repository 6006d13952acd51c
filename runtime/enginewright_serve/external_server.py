"""A Triton that another program starts, `mpirun` or `docker run`: up after a token, and stopped in order.

Started so, a server is not the keeper's child. Its signals have to reach it by another way: docker's own
commands, or, under mpirun, straight to rank 0. mpirun would hand a signal to all ranks at once, and kill them
soon after; rank 0 ends the others itself when its requests are done.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from enginewright_errors import StageFailed, UsageError

from enginewright_serve.access import Access
from enginewright_serve.first_token import NoToken, wait_for_token
from enginewright_serve.launcher_failure import launcher_failure
from enginewright_serve.probe import Probe
from enginewright_serve.process import TritonProcess
from enginewright_serve.repository import MODEL

__all__ = ["FRONT_VARIABLES", "Command", "ExternalServer"]

_GRACE = 10.0  # seconds beyond the server's own exit timeout

# What the front reads of its environment. The id of probes must not be guessed, so no command line has it.
FRONT_VARIABLES = ("ENGINEWRIGHT_PROBE_ID", "ENGINEWRIGHT_RESTARTS", "ENGINEWRIGHT_LOG_REQUESTS")


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
    It hands `FRONT_VARIABLES` on to the server. host: what clients reach it by. grpc_address,
    metrics_address: where it will answer. log_requests: a line in the log for each finished request. log:
    where the output goes, by default a temporary file that is kept only when the server fails. ready_timeout:
    seconds to the first generated token. exit_timeout: seconds that running requests have to end when the
    server is stopped, and that the server may take after them.
    """

    http_address = None  # of the server's own machine, for its probes

    def __init__(
        self,
        command: Callable[[Path], Command],
        *,
        host: str,
        grpc_address: str,
        metrics_address: str,
        log_requests: bool = True,
        log: Path | None = None,
        ready_timeout: float = 1800.0,
        exit_timeout: float = 60.0,
    ) -> None:
        self.host, self.grpc_address, self.metrics_address = host, grpc_address, metrics_address
        self._make, self._given_log, self._log_requests = command, log, log_requests
        self._ready_timeout, self._exit_timeout = ready_timeout, exit_timeout
        self._folder: Path | None = None  # made by start(), removed by stop()
        self._command: Command | None = None
        self._process: TritonProcess | None = None
        self._log_start = 0
        self._restarts = 0
        self._failed = False
        self._probe_id = f"probe-{secrets.token_hex(16)}"

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
        self.stop(kill=True)
        self._failed, self._restarts = False, 0
        self._folder = Path(tempfile.mkdtemp(prefix="enginewright-serve-"))
        try:
            self._open_log()
            self._command = self._make(self._private)
            self._launch(self._command)
        except BaseException:
            self.stop(kill=True)  # it serves nobody yet
            raise

    def restart(self) -> None:
        """Kill the server and start it again on the same ports. Raises StageFailed when it does not come up;
        then it does not run, and may be restarted again."""
        if self._command is None:
            raise UsageError("the server was not started", code="not-started", hint="call start() first")
        self._end(kill=True)
        self._restarts += 1
        self._launch(self._command)

    def trouble(self, seconds: float) -> str | None:
        """What has ended of the server, in one line; waits up to `seconds` for it."""
        return "the server does not run" if self._process is None else self._process.trouble(seconds)

    def open_probe(self) -> Probe:
        """To find out whether a token is generated; the caller closes it."""
        return Probe(self.grpc_address, Access(), model=MODEL, request_id=self._probe_id)

    def failure(self, what: str) -> StageFailed:
        """An error that names the log, which is kept for it."""
        self._failed = True
        return StageFailed(what, code="server-failed", hint=f"its log is {self.log}")

    def stop(self, *, kill: bool = False) -> None:
        """End the server and everything it started, at once with `kill`.

        Without effect on a server that is not running. Interrupted, it may be called again.
        """
        self._end(kill=kill)
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

    @property
    def _prefix(self) -> str:
        """Of the names of this run's shared memory regions."""
        return f"{self._private.name}_"

    def _open_log(self) -> None:
        try:
            self.log.write_bytes(b"")
        except OSError as error:
            raise UsageError(
                f"the log {self.log} cannot be written: {error.strerror}",
                code="bad-log",
                hint="change --log-file",
            ) from None

    def _launch(self, command: Command) -> None:
        front = (self._probe_id, str(self._restarts), "summary" if self._log_requests else "off")
        self._log_start = self.log.stat().st_size
        self._process = TritonProcess(
            command.argv,
            {**os.environ, **command.environment, **dict(zip(FRONT_VARIABLES, front, strict=True))},
            log=self.log.resolve(),
            folder=self._private,
            prefix=self._prefix,
            grace=self._exit_timeout + _GRACE,
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._end(kill=True)
            raise
        self._process.watch_models()

    def _wait_until_ready(self, process: TritonProcess) -> None:
        try:
            if wait_for_token(
                self.open_probe, self.grpc_address, process.trouble, seconds=self._ready_timeout
            ):
                return
        except NoToken as error:
            raise self.failure(str(error)) from error
        reason = self._reason(process)
        raise self.failure(f"the server did not start: {reason}" if reason else "the server did not start")

    def _end(self, *, kill: bool) -> None:
        process, command = self._process, self._command
        if process is None or command is None:
            return
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

    def _end_leader(self, process: TritonProcess) -> None:
        """Ask rank 0 to end, and wait for the rest; without effect where the server is the command itself."""
        leader = _leader(self._prefix)
        if leader is None or leader == process.pid:
            return
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGTERM)
        deadline = time.monotonic() + self._exit_timeout + _GRACE
        while time.monotonic() < deadline and not process.ended(0.5):
            pass

    def _reason(self, process: TritonProcess) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return launcher_failure(log.read()) or process.reason()


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
