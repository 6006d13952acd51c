"""What every server has that is started here: a private folder, a log, a probe, restarts and an end."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from enginewright_errors import StageFailed, UsageError

from enginewright_serve.access import Access
from enginewright_serve.first_token import NoToken, wait_for_token
from enginewright_serve.probe import Probe
from enginewright_serve.process import TritonProcess
from enginewright_serve.repository import MODEL

__all__ = ["FRONT_VARIABLES", "Command", "ServerBase", "not_started"]

# What the front reads of its environment. The id of probes must not be guessed, so no command line has it:
# the front keeps what carries it out of the metrics.
FRONT_VARIABLES = ("ENGINEWRIGHT_PROBE_ID", "ENGINEWRIGHT_RESTARTS", "ENGINEWRIGHT_LOG_REQUESTS")


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a server. argv: it stays in the foreground, and ends with the server.

    environment: beside this process's. stop, remove: commands that end the server in order and at once; when
    they are empty, signals do.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


_Server = TypeVar("_Server", bound="ServerBase")


class ServerBase(ABC):
    """Runs from `start()` to `stop()`, or within a `with` block, what a subclass says how to start."""

    def __init__(
        self,
        *,
        host: str,
        access: Access | None,
        log_requests: bool,
        log: Path | None,
        ready_timeout: float,
        end_seconds: float,
    ) -> None:
        """end_seconds: after which a server that was asked to end is killed. The rest: see the subclasses."""
        self.host = host
        self._access = access or Access()
        self._log_requests = log_requests
        self._given_log = log
        self._ready_timeout = ready_timeout
        self._end_seconds = end_seconds
        self._folder: Path | None = None  # made by start(), removed by stop()
        self._process: TritonProcess | None = None
        self._restarts = 0
        self._failed = False
        self._probe_id = f"probe-{secrets.token_hex(16)}"

    @property
    @abstractmethod
    def grpc_address(self) -> str:
        """`host:port` for clients."""

    @property
    @abstractmethod
    def metrics_address(self) -> str:
        """`host:port` of Prometheus metrics, at /metrics."""

    @property
    def http_address(self) -> str | None:
        """`host:port` of Triton's HTTP; None without it."""
        return None

    @property
    def log(self) -> Path:
        """The file with the output of the server, its models, and what started it."""
        return self._given_log or self._private / "tritonserver.log"

    @property
    def pid(self) -> int | None:
        """The id of the process that was started; None while none is."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Return when the server generates tokens.

        Raises UsageError for a repository, port or log that cannot be used, StageFailed with the reason when
        the server does not come up. Then, or when it is interrupted, nothing is left behind but the log.
        """
        self.stop(kill=True)
        self._failed, self._restarts = False, 0
        self._folder = Path(tempfile.mkdtemp(prefix="enginewright-serve-"))
        try:
            self._prepare(self._folder)
            self._open_log()
            self._launch()
        except BaseException:
            self.stop(kill=True)  # it serves nobody yet
            raise

    def restart(self) -> None:
        """Kill the server and start it again on the same ports. Raises StageFailed when it does not come up;
        then it does not run, and may be restarted again."""
        self._end(kill=True)
        self._restarts += 1
        self._launch()

    def trouble(self, seconds: float) -> str | None:
        """What has ended of the server, in one line; waits up to `seconds` for it."""
        return "the server does not run" if self._process is None else self._process.trouble(seconds)

    def open_probe(self) -> Probe:
        """To find out whether a token is generated; the caller closes it."""
        return Probe(self.grpc_address, self._access, model=MODEL, request_id=self._probe_id)

    def failure(self, what: str) -> StageFailed:
        """An error that names the log, which is kept for it."""
        self._failed = True
        return StageFailed(what, code="server-failed", hint=f"its log is {self.log}")

    def wait(self) -> None:
        """Return when the server has ended, which it does by itself only by failing: raises StageFailed."""
        process = self._process
        while process is not None and not process.ended(1.0):
            pass
        raise self.failure(f"the server ended: {process.reason() if process else ''}")

    def stop(self, *, kill: bool = False) -> None:
        """End the server and everything it started.

        Running requests have the exit timeout to end; with `kill` they are cut off. Without effect on a
        server that is not running. Interrupted, it may be called again.
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

    def __enter__(self: _Server) -> _Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self, folder: Path) -> None:
        """Once a start, before anything runs. folder: the new private one of this start."""

    @abstractmethod
    def _command(self) -> Command:
        """What to start, the first time and after every failure."""

    def _end_process(self, process: TritonProcess, *, kill: bool) -> None:
        """End what `_command` started."""
        process.stop(kill=kill)

    @property
    def _private(self) -> Path:
        if self._folder is None:
            raise not_started()
        return self._folder

    @property
    def _prefix(self) -> str:
        """Of the names of this server's shared memory regions."""
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

    def _launch(self) -> None:
        command = self._command()
        front = (self._probe_id, str(self._restarts), "summary" if self._log_requests else "off")
        self._process = TritonProcess(
            command.argv,
            {**os.environ, **command.environment, **dict(zip(FRONT_VARIABLES, front, strict=True))},
            log=self.log.resolve(),
            folder=self._private,
            prefix=self._prefix,
            grace=self._end_seconds,
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
                self.open_probe,
                self.grpc_address,
                process.trouble,
                seconds=self._ready_timeout,
                others=[address for address in (self.metrics_address, self.http_address) if address],
            ):
                return
        except NoToken as error:
            raise self.failure(str(error)) from error
        reason = process.reason()
        raise self.failure(f"the server did not start: {reason}" if reason else "the server did not start")

    def _end(self, *, kill: bool) -> None:
        if self._process is not None:
            self._end_process(self._process, kill=kill)
            self._process = None


def not_started() -> UsageError:
    """What is asked of a server before `start()`."""
    return UsageError("the server was not started", code="not-started", hint="call start() first")
