"""What compose files and Kubernetes manifests share: limits, probes, the deployment's names."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from enginewright_errors import UsageError
from enginewright_model import ModelSpec

from enginewright_trtllm.launch import Ports, ServerFlags, closed_administration
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.weights import engine_bytes

__all__ = ["DeployOptions", "host_memory_gib", "probe_command", "scratch_gib"]

_SERVER_BYTES = 8 * 2**30  # tritonserver, its Python models, pinned buffers
scratch_gib = 8


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """name: of the service and of everything that belongs to it.

    For compose: repository, a folder of the host; host, metrics_host, the addresses at which ports are
    published; gpus, which of the host's, any when empty.
    For Kubernetes: namespace, monitoring_namespace: where the server and where Prometheus runs. claim: the
    PersistentVolumeClaim that holds the repository. replicas, max_replicas: bounds of the autoscaler; compose
    starts `replicas`. waiting: requests that wait for a place, a replica, above which one is added. cpu: of
    a replica, cores. admin_key: of `closed_administration`. kubectl_image: an image with sh and kubectl, for
    several nodes only.
    """

    name: str = "llm"
    repository: str = "./repository"
    host: str = "127.0.0.1"
    metrics_host: str = "127.0.0.1"
    gpus: tuple[int, ...] = ()
    namespace: str = "default"
    monitoring_namespace: str = "monitoring"
    claim: str = "llm-repository"
    replicas: int = 1
    max_replicas: int = 4
    waiting: int = 4
    cpu: int = 8
    admin_key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    kubectl_image: str | None = None
    ports: Ports = field(default_factory=Ports)

    @property
    def flags(self) -> ServerFlags:
        """Of the server."""
        return ServerFlags(guard=closed_administration(self.admin_key))

    def __post_init__(self) -> None:
        for name in ("name", "namespace", "monitoring_namespace", "claim"):
            value = getattr(self, name)
            if not re.fullmatch(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", value):
                raise UsageError(
                    f"deploy: {name} {value!r} is not a DNS label",
                    code="deploy-option",
                    hint="Use lower-case letters, digits and dashes, a letter first.",
                )
        if not 1 <= self.replicas <= self.max_replicas:
            raise UsageError(
                f"deploy: replicas {self.replicas} with max_replicas {self.max_replicas}",
                code="deploy-option",
                hint="Give at least one replica, and no more than max_replicas.",
            )


def host_memory_gib(target: TrtllmTarget, dims: ModelSpec, shm: int) -> int:
    """Host memory of one server in GiB: engines pass through it on their way to the GPUs; shm counts too."""
    engines = sum(engine_bytes(dims, target, variant) for variant in target.variants)
    host = engines + _SERVER_BYTES + target.kv_cache_host_bytes
    return -(-host // 2**30) + shm + scratch_gib


def probe_command(ports: Ports, timeout: int) -> list[str]:
    """A command that runs one token through the model `llm`, over HTTP on the loopback.

    Triton's own readiness still says yes when a Python model died behind it.
    """
    script = (
        "import json, urllib.request as r; r.urlopen(r.Request("
        f"'http://127.0.0.1:{ports.http}/v2/models/llm/generate', "
        "json.dumps({'text_input': '1', 'max_tokens': 1}).encode()), "
        f"timeout={timeout}).read()"
    )
    return ["python3", "-c", script]
