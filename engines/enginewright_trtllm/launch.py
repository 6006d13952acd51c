"""Command lines that start Triton for a target.

One variant: leader mode, one tritonserver a rank under mpirun (world size tp x pp), or a plain tritonserver
for one rank. Rank 0 serves; the others load only the C++ model and never come back from it, so that all
may be given the same ports. Several variants: orchestrator mode, one server that spawns a process a rank of
each model (one node only).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from enginewright_errors import UsageError

from enginewright_trtllm.target import TrtllmTarget

__all__ = [
    "Launch",
    "Ports",
    "RemoteRanks",
    "ServerFlags",
    "closed_administration",
    "launch_server",
    "leader_command",
    "make_ports",
    "mpi_environment",
]

# Open MPI 4 sleeps so long before it passes SIGTERM on, and again before SIGKILL. Its own second would cut
# running requests off; Triton's exit timeout would be waited for twice, whether anything runs or not.
_MPI_TERM_SECONDS = 10
# A client that vanished is noticed, and one that pings through a long prefill is not cut off for it.
_KEEPALIVE = (
    "--grpc-keepalive-time=30000",
    "--grpc-keepalive-timeout=10000",
    "--grpc-http2-min-recv-ping-interval-without-data=10000",
)
# Without the second, Open MPI pins each of up to two ranks to one core, with every thread and Python child.
_MPIRUN = ("mpirun", "--allow-run-as-root", "--bind-to", "none")


@dataclass(frozen=True, slots=True)
class Launch:
    """An argument list and what must be in its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of the server and the addresses it binds.

    HTTP stays on the loopback, for probes; None: there is none. Metrics need an address of their own: Triton
    takes HTTP's.
    """

    grpc: int = 8001
    http: int | None = 8000
    metrics: int = 8002
    grpc_address: str = "0.0.0.0"
    http_address: str = "127.0.0.1"
    metrics_address: str = "0.0.0.0"


def make_ports(grpc: int, metrics: int) -> Ports:
    """Ports for clients and Prometheus, and one for HTTP that is neither. Raises UsageError when they are the
    same."""
    if grpc == metrics:
        raise UsageError(
            f"--grpc-port and --metrics-port are both {grpc}", code="port-twice", hint="change one of them"
        )
    return Ports(grpc, next(port for port in (8000, 8003, 8004) if port not in (grpc, metrics)), metrics)


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """shm_prefix: of the names of shared memory; a rank's number follows. exit_timeout: seconds that Triton
    gives running requests when it is stopped. guard: flags that say who may do what. sealed: what each
    tritonserver is started by, where keys are kept out of the process table."""

    shm_prefix: str = "prefix"
    exit_timeout: int = 60
    guard: tuple[str, ...] = field(default=(), repr=False)
    sealed: tuple[str, ...] = ()


_FLAGS = ServerFlags()


@dataclass(frozen=True, slots=True)
class RemoteRanks:
    """Hosts of a leader-mode job over several nodes: mpirun's --host value and its remote shell."""

    hosts: str
    agent: str


def launch_server(
    target: TrtllmTarget, *, repository: str, ports: Ports | None = None, flags: ServerFlags = _FLAGS
) -> Launch:
    """The command on one node. repository: the absolute path where it runs (a container's mount, usually)."""
    ports = ports or Ports()
    if len(target.variants) > 1:
        return _orchestrator(target, repository, ports, flags)
    if target.world_size == 1:
        return Launch(tuple(_tritonserver(repository, ports, flags, rank=0, models=())))
    command = leader_command(target, repository=repository, ports=ports, flags=flags)
    return Launch(tuple(command), mpi_environment())


def leader_command(
    target: TrtllmTarget,
    *,
    repository: str,
    ports: Ports,
    flags: ServerFlags = _FLAGS,
    remote: RemoteRanks | None = None,
) -> list[str]:
    """mpirun with one tritonserver a rank. Ranks are laid on the hosts in order, a node's slots first."""
    models = [target.model_name(variant) for variant in target.variants]
    command = list(_MPIRUN)
    if remote is not None:
        command += ["--mca", "plm_rsh_agent", remote.agent, "--host", remote.hosts]
    for rank in range(target.world_size):
        command += [":"] if rank else []
        command += ["-n", "1", *_tritonserver(repository, ports, flags, rank=rank, models=models)]
    return command


def _orchestrator(target: TrtllmTarget, repository: str, ports: Ports, flags: ServerFlags) -> Launch:
    server = _tritonserver(repository, ports, flags, rank=0, models=())
    # The spawned workers own the GPUs: the server itself must not keep memory pools on them.
    pools = [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(target.gpu_count)]
    argv = [
        *(*_MPIRUN, "-n", "1"),
        *server,
        "--pinned-memory-pool-byte-size=0",
        "--enable-peer-access=false",
        *pools,
    ]
    env = {
        "TRTLLM_ORCHESTRATOR": "1",
        "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1",
        **mpi_environment(),
    }
    return Launch(tuple(argv), env)


def _tritonserver(
    repository: str, ports: Ports, flags: ServerFlags, *, rank: int, models: Sequence[str]
) -> list[str]:
    control = []
    if rank:
        control = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in models)]
    return [
        *flags.sealed,
        "tritonserver",
        f"--model-repository={repository}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--grpc-address={ports.grpc_address}",
        f"--metrics-address={ports.metrics_address}",
        *_http(ports),
        *control,
        *_KEEPALIVE,
        *flags.guard,
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name={flags.shm_prefix}{rank}_",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        f"--exit-timeout-secs={flags.exit_timeout}",
    ]


def _http(ports: Ports) -> list[str]:
    if ports.http is None:
        return ["--allow-http=false"]
    return [f"--http-port={ports.http}", f"--http-address={ports.http_address}"]


def closed_administration(key: str) -> tuple[str, ...]:
    """Flags without whose key nobody reaches Triton's administration, such as the name of its log file."""
    restricted = f"shared-memory,model-repository,trace,logging:enginewright-admin={key}"
    return f"--grpc-restricted-protocol={restricted}", f"--http-restricted-api={restricted}"


def mpi_environment() -> dict[str, str]:
    """What Open MPI is told in its environment, which reaches it in whatever starts mpirun."""
    return {
        # Cross-memory attach needs ptrace, which a container without capabilities does not allow.
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
        "OMPI_MCA_odls_base_sigkill_timeout": str(_MPI_TERM_SECONDS),
    }
