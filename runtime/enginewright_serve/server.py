"""A tritonserver that serves one packaged repository, from its start to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginewright_serve.access import Access
from enginewright_serve.command_line import Listeners, make_backends, server_command
from enginewright_serve.ports import choose_ports, client_address
from enginewright_serve.repository import check_repository
from enginewright_serve.server_base import Command, ServerBase, not_started
from enginewright_serve.triton_binary import TritonBinary, find_triton

__all__ = ["TritonServer"]

_GRACE = 5.0  # seconds beyond its exit timeout before Triton is killed


@dataclass(frozen=True, slots=True)
class _Prepared:
    binary: TritonBinary
    backends: Path | None
    listeners: Listeners


class TritonServer(ServerBase):
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
        super().__init__(
            host=host,
            access=access,
            log_requests=log_requests,
            log=log,
            ready_timeout=ready_timeout,
            end_seconds=exit_timeout + _GRACE,
        )
        self._repository = Path(repository)
        self._metrics_host = metrics_host
        self._ports = {"--grpc-port": grpc_port, "--metrics-port": metrics_port}
        if http_port is not None:
            self._ports["--http-port"] = http_port
        self._threads = threads
        self._executable = executable
        self._exit_timeout = exit_timeout
        self._made: _Prepared | None = None

    @property
    def grpc_address(self) -> str:
        """`host:port` for clients."""
        return client_address(self.host, self._prepared.listeners.grpc_port)

    @property
    def metrics_address(self) -> str:
        """`host:port` of Prometheus metrics, at /metrics."""
        return client_address(self._metrics_host, self._prepared.listeners.metrics_port)

    @property
    def http_address(self) -> str | None:
        """`host:port` of Triton's HTTP; None without it."""
        port = self._prepared.listeners.http_port
        return None if port is None else f"127.0.0.1:{port}"

    @property
    def _prepared(self) -> _Prepared:
        if self._made is None:
            raise not_started()
        return self._made

    def _prepare(self, folder: Path) -> None:
        check_repository(self._repository)
        binary = find_triton(self._executable)
        grpc_port, metrics_port, *http_port = choose_ports(self.host, self._ports)
        listeners = Listeners(
            self.host, grpc_port, metrics_port, http_port[0] if http_port else None, self._metrics_host
        )
        self._made = _Prepared(binary, make_backends(binary, folder), listeners)

    def _command(self) -> Command:
        prepared = self._prepared
        return server_command(
            prepared.binary,
            prepared.backends,
            self._repository.resolve(),
            prepared.listeners,
            self._access,
            shared_memory_prefix=self._prefix,
            exit_timeout=self._exit_timeout,
            threads=self._threads,
        )
