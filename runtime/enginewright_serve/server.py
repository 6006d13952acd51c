"""A tritonserver that serves one packaged repository, from its start to its end."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from enginewright_errors import StageFailed, UsageError

from enginewright_serve.access import Access
from enginewright_serve.command_line import Listeners, make_backends, server_command, server_environment
from enginewright_serve.first_token import NoToken, wait_for_token
from enginewright_serve.ports import choose_ports, client_address
from enginewright_serve.probe import Probe
from enginewright_serve.process import TritonProcess
from enginewright_serve.repository import MODEL, check_repository
from enginewright_serve.triton_binary import TritonBinary, find_triton

__all__ = ["TritonServer"]

_GRACE = 5.0  # seconds beyond its exit timeout before Triton is killed


class TritonServer:
    """Serves `repository` on `host` from `start()` to `stop()`, or within a `with` block.

    A port that is None is chosen among the free ones; http_port None means no HTTP, which is at 127.0.0.1
    whatever the host. metrics_host: where Prometheus metrics are. threads: of the engine; None leaves it to
    the engine. access: TLS and a token. log_requests: a line in the log for each finished request. log: where
    the server's output goes, by default a temporary file that is kept only when the server fails. executable:
    a tritonserver, if not the one that is found. ready_timeout: seconds to the first generated token.
    exit_timeout: seconds that running requests have to end when the server is stopped.

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
        metrics_host: str = "127.0.0.1",
        http_port: int | None = None,
        threads: int | None = None,
        access: Access | None = None,
        log_requests: bool = True,
        log: Path | None = None,
        executable: Path | None = None,
        ready_timeout: float = 600.0,
        exit_timeout: int = 10,
    ) -> None:
        self._repository = Path(repository)
        self._host, self._metrics_host = host, metrics_host
        self._ports = {"--grpc-port": grpc_port, "--metrics-port": metrics_port}
        if http_port is not None:
            self._ports["--http-port"] = http_port
        self._threads = threads
        self._access = access or Access()
        self._log_requests = log_requests
        self._log = log
        self._executable = executable
        self._ready_timeout = ready_timeout
        self._exit_timeout = exit_timeout
        self._binary: TritonBinary | None = None
        self._backends: Path | None = None
        self._listeners: Listeners | None = None
        self._process: TritonProcess | None = None
        self._folder: Path | None = None  # made by start(), removed by stop()
        self._restarts = 0
        self._failed = False
        # The front keeps what carries it out of the metrics, so it must not be guessed.
        self._probe_id = f"probe-{secrets.token_hex(16)}"

    @property
    def host(self) -> str:
        """The address it listens at."""
        return self._host

    @property
    def grpc_address(self) -> str:
        """`host:port` for clients."""
        return client_address(self._host, self._running.grpc_port)

    @property
    def metrics_address(self) -> str:
        """`host:port` of Prometheus metrics, at /metrics."""
        return client_address(self._metrics_host, self._running.metrics_port)

    @property
    def http_address(self) -> str | None:
        """`host:port` of Triton's HTTP; None without it."""
        port = self._running.http_port
        return None if port is None else f"127.0.0.1:{port}"

    @property
    def log(self) -> Path:
        """The file with the server's and the models' output."""
        return self._log or self._private / "tritonserver.log"

    @property
    def pid(self) -> int | None:
        """The process id of tritonserver, once it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Return when the server generates tokens.

        Raises UsageError for a repository, port or log that cannot be used, StageFailed with the reason when
        the server does not come up. Nothing is left running then.
        """
        self.stop(kill=True)
        check_repository(self._repository)
        self._binary = find_triton(self._executable)
        grpc_port, metrics_port, *http_port = choose_ports(self._host, self._ports)
        self._listeners = Listeners(
            self._host, grpc_port, metrics_port, http_port[0] if http_port else None, self._metrics_host
        )
        self._failed, self._restarts = False, 0
        self._folder = Path(tempfile.mkdtemp(prefix="enginewright-serve-"))
        try:
            self._open_log()
            self._backends = make_backends(self._binary, self._private)
            self._launch()
        except BaseException:
            self.stop(kill=True)  # it serves nobody yet
            raise

    def restart(self) -> None:
        """Kill the server and start it again on the same ports. Raises StageFailed when it does not come up;
        then it does not run, and may be restarted again."""
        if self._process is not None:
            self._process.stop(kill=True)
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
        while self._process is not None and not self._process.ended(1.0):
            pass
        reason = "" if self._process is None else self._process.reason()
        raise self.failure(f"the server ended: {reason}")

    def stop(self, *, kill: bool = False) -> None:
        """End the server and everything it started.

        Running requests have the exit timeout to end; with `kill` they are cut off. Without effect on a
        server that is not running. Interrupted, it may be called again.
        """
        if self._process is not None:
            self._process.stop(kill=kill)
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
    def _found(self) -> TritonBinary:
        if self._binary is None:
            raise UsageError("the server was not started", code="not-started", hint="call start() first")
        return self._binary

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
        prefix = f"{self._private.name}_"
        command = server_command(
            self._found,
            self._backends,
            self._repository.resolve(),
            self._running,
            self._access,
            shared_memory_prefix=prefix,
            exit_timeout=self._exit_timeout,
        )
        environment = server_environment(self._found, os.environ, self._threads)
        environment |= {
            "ENGINEWRIGHT_PROBE_ID": self._probe_id,
            "ENGINEWRIGHT_RESTARTS": str(self._restarts),
            "ENGINEWRIGHT_LOG_REQUESTS": "summary" if self._log_requests else "off",
        }
        self._process = TritonProcess(
            command.words,
            environment,
            log=self.log.resolve(),
            folder=self._private,
            prefix=prefix,
            grace=self._exit_timeout + _GRACE,
            secrets=command.secrets,
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._process.stop(kill=True)
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
        reason = process.reason()
        raise self.failure(f"the server did not start: {reason}" if reason else "the server did not start")
