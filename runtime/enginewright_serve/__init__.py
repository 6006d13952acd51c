"""Start a Triton Inference Server on a packaged repository, know that it works, leave nothing behind.

from enginewright_serve import TritonServer

with TritonServer(Path("out/smollm2")) as server:
    print(server.grpc_address)
"""

from __future__ import annotations

from enginewright_serve.access import Access, read_access
from enginewright_serve.external_server import ExternalServer
from enginewright_serve.health import HealthPolicy
from enginewright_serve.server import TritonServer
from enginewright_serve.server_base import Command
from enginewright_serve.supervisor import Supervisor, SupervisorPolicy
from enginewright_serve.triton_binary import TritonBinary, find_triton

__all__ = [
    "Access",
    "Command",
    "ExternalServer",
    "HealthPolicy",
    "Supervisor",
    "SupervisorPolicy",
    "TritonBinary",
    "TritonServer",
    "find_triton",
    "read_access",
]
