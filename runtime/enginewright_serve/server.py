"""A tritonserver that serves one packaged repository, from its start to its end."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from enginewright_client import TritonClient
from enginewright_errors import StageFailed, UsageError

from enginewright_serve.command_line import Listeners, make_backends, server_command, server_environment
from enginewright_serve.first_token import NoToken, wait_for_token
from enginewright_serve.ports import choose_ports
from enginewright_serve.process import TritonProcess
from enginewright_serve.repository import MODEL, check_repository
from enginewright_serve.triton_binary import find_triton

__all__ = ["TritonServer"]

_GRACE = 5.0  # seconds beyond its exit timeout before Triton is killed


class TritonServer:
    """Serves `repository` on `host` from `start()` to `stop()`, or within a `with` block.

    A port that is None is chosen among the free ones; http_port None means no HTTP. threads: of the engine;
    None leaves it to the engine. log: where the server's output goes, by default a temporary file that is
    kept only when the server fails. executable: a tritonserver, if not the one that is found.
    ready_timeout: seconds to the first generated token. exit_timeout: seconds that running requests have to
    end when the server is stopped.

        with TritonServer(Path("out")) as server:
            client = TritonClient(server.grpc_address)
    """

    def __init__(
        self,
        repository: Path,
        *,
        host: str = "127.0.0.1",
        grpc_port: int | None = None,
        metrics_port: int | None = None,
        http_port: int | None = None,
        threads: int | None = None,
        log: Path | None = None,
        executable: Path | None = None,
        ready_timeout: float = 600.0,
        exit_timeout: int = 10,
    ) -> None:
        self._repository = Path(repository)
        self._host = host
        self._ports = {"--grpc-port": grpc_port, "--metrics-port": metrics_port}
        if http_port is not None:
            self._ports["--http-port"] = http_port
        self._threads = threads
        self._log = log
        self._executable = executable
        self._ready_timeout = ready_timeout
        self._exit_timeout = exit_timeout
        self._listeners: Listeners | None = None
        self._process: TritonProcess | None = None
        self._folder: Path | None = None  # made by start(), removed by stop()
        self._failed = False

    @property
    def grpc_address(self) -> str:
        """`host:port` for clients."""
        return self._address(self._running.grpc_port)

    @property
    def metrics_address(self) -> str:
        """`host:port` of Prometheus metrics, at /metrics."""
        return self._address(self._running.metrics_port)

    @property
    def http_address(self) -> str | None:
        """`host:port` of Triton's HTTP; None without it."""
        port = self._running.http_port
        return None if port is None else self._address(port)

    @property
    def log(self) -> Path:
        """The file with the server's and the models' output."""
        return self._log or self._private / "tritonserver.log"

    @property
    def pid(self) -> int | None:
        """The process id of tritonserver, once it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and return when a token has been generated.

        Raises UsageError for a repository, port or host that cannot be served, StageFailed when the server
        or a model does not start. Nothing is left behind then, or when it is interrupted, but the log.
        """
        if self._process is not None:
            raise UsageError("the server was started already", code="already-started", hint="stop it first")
        check_repository(self._repository)
        binary = find_triton(self._executable)
        self._listeners = Listeners(self._host, *choose_ports(self._host, self._ports))
        self._failed = False
        self._folder = Path(tempfile.mkdtemp(prefix="enginewright-serve-"))
        try:
            self._open_log()
            command = server_command(
                binary,
                make_backends(binary, self._private),
                self._repository.resolve(),
                self._listeners,
                shared_memory_prefix=self._prefix,
                exit_timeout=self._exit_timeout,
            )
            self._process = TritonProcess(
                command,
                server_environment(binary, os.environ, self._threads),
                log=self.log,
                folder=self._private,
                prefix=self._prefix,
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
        raise self._failure("the server ended", process.reason() if process is not None else "")

    def stop(self, *, kill: bool = False) -> None:
        """End the server and everything it started.

        Running requests have the exit timeout to end; with `kill` they are cut off. Without effect on a
        server that is not running. Interrupted, it may be called again.
        """
        if self._process is not None:
            self._process.stop(kill=kill)
            self._process = None
        if self._folder is not None:
            kept = self._failed and self._log is None
            folder = self._folder / "backends" if kept else self._folder
            if folder.is_dir():
                shutil.rmtree(folder)

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _running(self) -> Listeners:
        if self._listeners is None:
            raise UsageError("the server was not started", code="not-started", hint="call start() first")
        return self._listeners

    @property
    def _private(self) -> Path:
        """The temporary folder of this run."""
        if self._folder is None:
            raise UsageError("the server was not started", code="not-started", hint="call start() first")
        return self._folder

    @property
    def _prefix(self) -> str:
        """Of the names of this run's shared memory regions."""
        return f"{self._private.name}_"

    def _address(self, port: int) -> str:
        host = "127.0.0.1" if self._host == "0.0.0.0" else self._host
        return f"{host}:{port}"

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
        raise self._failure("the server did not start", process.reason())

    def _failure(self, what: str, reason: str = "") -> StageFailed:
        self._failed = True
        return StageFailed(
            f"{what}: {reason}" if reason else what, code="server-failed", hint=f"its log is {self.log}"
        )
