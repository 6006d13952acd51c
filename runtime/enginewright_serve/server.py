"""A tritonserver that serves one packaged repository, from its start to its end."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from enginewright_client import (
    ConnectError,
    RequestError,
    RequestTimeout,
    SamplingParams,
    ServerOverloaded,
    TritonClient,
)
from enginewright_errors import StageFailed, UsageError

from enginewright_serve import keeper
from enginewright_serve.command_line import Listeners, make_backends, server_command, server_environment
from enginewright_serve.failure_reason import failure_reason
from enginewright_serve.ports import choose_ports
from enginewright_serve.repository import MODEL, check_repository
from enginewright_serve.triton_binary import find_triton

__all__ = ["TritonServer"]

_TICK = 0.05
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
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None  # made by start(), removed by stop()
        self._said = b""
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
        first = self._said.split()
        return int(first[0]) if first else None

    def start(self) -> None:
        """Start the server and return when a token has been generated.

        Raises UsageError for a repository, port or host that cannot be served, StageFailed when the server
        or a model does not start. Nothing is left behind then, or when it is interrupted, but the log.
        """
        if self._keeper is not None:
            raise UsageError("the server was started already", code="already-started", hint="stop it first")
        check_repository(self._repository)
        binary = find_triton(self._executable)
        self._listeners = Listeners(self._host, *choose_ports(self._host, self._ports))
        self._said, self._failed = b"", False
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
            self._keeper = self._start_keeper(command, server_environment(binary, os.environ, self._threads))
            self._wait_until_ready(time.monotonic() + self._ready_timeout)
        except BaseException:
            self.stop(kill=True)  # it serves nobody yet
            raise

    def wait(self) -> None:
        """Return when the server has ended, which it does by itself only by failing: raises StageFailed."""
        while not self._ended(1.0):
            pass
        raise self._failure("the server ended", self._reason())

    def stop(self, *, kill: bool = False) -> None:
        """End the server and everything it started.

        Running requests have the exit timeout to end; with `kill` they are cut off. Without effect on a
        server that is not running. Interrupted, it may be called again.
        """
        process = self._keeper
        if process is not None and process.stdin is not None and process.stdout is not None:
            with suppress(BrokenPipeError):  # the keeper has ended
                os.write(process.stdin.fileno(), b"k" if kill else b"t")
            process.wait()
            process.stdin.close()
            process.stdout.close()
            if process.returncode != 0:  # the keeper itself was killed
                keeper.end_stubs(self._prefix)
                keeper.remove_shared_memory(self._prefix)
            self._keeper = None
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

    def _start_keeper(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        orders = {
            "command": command,
            "log": str(self.log),
            "folder": str(self._private),
            "prefix": self._prefix,
            "grace": self._exit_timeout + _GRACE,
        }
        return subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, json.dumps(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, who then end the server in order
        )

    def _wait_until_ready(self, deadline: float) -> None:
        with TritonClient(self.grpc_address, model=MODEL) as client:
            while not self._ended(_TICK):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._failure(f"the server generated no token within {self._ready_timeout:g} s")
                if not self._listening():
                    continue
                try:
                    client.generate("Hello", SamplingParams(max_tokens=1, temperature=0.0), timeout=left)
                except (ConnectError, RequestTimeout, ServerOverloaded):
                    continue
                except RequestError as error:
                    raise self._failure(
                        f"the server started but generates nothing: {error.message}"
                    ) from error
                return
        raise self._failure("the server did not start", self._reason())

    def _listening(self) -> bool:
        host, _, port = self.grpc_address.rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
            return True
        return False

    def _ended(self, seconds: float) -> bool:
        """Whether the server has ended; waits up to `seconds` for it."""
        if self._keeper is None or self._keeper.stdout is None:
            return True
        out = self._keeper.stdout.fileno()
        if select.select([out], [], [], seconds)[0]:
            piece = os.read(out, 64)
            self._said += piece
            return not piece or self._said.count(b"\n") > 1
        return False

    def _reason(self) -> str:
        """Why the server ended, as its log or its exit code tells."""
        said = self._said.split()
        reason = failure_reason(self.log.read_bytes())
        if not reason and len(said) > 1:
            code = int(said[1])
            reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return reason

    def _failure(self, what: str, reason: str = "") -> StageFailed:
        self._failed = True
        return StageFailed(
            f"{what}: {reason}" if reason else what, code="server-failed", hint=f"its log is {self.log}"
        )
