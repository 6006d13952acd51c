"""The pod of a server: container, limits, probes, volumes. One pod has all GPUs of an engine on its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginewright_model import ModelSpec

from enginewright_trtllm.container import MODELS, shm_gib
from enginewright_trtllm.deploy_options import DeployOptions, host_memory_gib, probe_command, scratch_gib
from enginewright_trtllm.gpus import find_gpu
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import container_image

__all__ = ["pod_spec", "probes"]

_USER = 1000
_GRACE_SECONDS = 90


def pod_spec(
    target: TrtllmTarget,
    dims: ModelSpec,
    options: DeployOptions,
    *,
    command: Sequence[str],
    env: Mapping[str, str],
    probed: bool,
) -> dict[str, Any]:
    """The spec of a pod that runs `command`. probed: it answers requests, so it has ports and probes."""
    shm, ports = shm_gib(target), options.ports
    memory = f"{host_memory_gib(target, dims, shm)}Gi"
    resources = {"cpu": str(options.cpu), "memory": memory, "nvidia.com/gpu": str(target.gpus_per_node)}
    container: dict[str, Any] = {
        "name": "triton",
        "image": container_image(target.container),
        # Arguments, not the command: the image's entry point sets up the driver's compatibility libraries.
        "args": list(command),
        "env": [
            {"name": name, "value": value}
            for name, value in sorted({"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **env}.items())
        ],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "repository", "mountPath": MODELS, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    if probed:
        container["ports"] = [
            {"name": "grpc", "containerPort": ports.grpc},
            {"name": "metrics", "containerPort": ports.metrics},
        ]
        container |= probes(options)
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _on_gpu(target),
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "repository", "persistentVolumeClaim": {"claimName": options.claim, "readOnly": True}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": f"{scratch_gib}Gi"}},
        ],
    }


def probes(options: DeployOptions) -> dict[str, Any]:
    """Start and life are proved by a token; readiness by gRPC's health service, so that a full queue does
    not take a replica out of the service."""
    ports = options.ports
    return {
        "startupProbe": {
            "exec": {"command": probe_command(ports, 30)},
            "periodSeconds": 15,
            "timeoutSeconds": 35,
            "failureThreshold": 80,
        },
        "readinessProbe": {"grpc": {"port": ports.grpc}, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {
            "exec": {"command": probe_command(ports, 60)},
            "periodSeconds": 60,
            "timeoutSeconds": 65,
            "failureThreshold": 5,
        },
    }


def _on_gpu(target: TrtllmTarget) -> dict[str, Any]:
    """Nodes with the GPU that the engine was built for, by the label of NVIDIA's feature discovery."""
    products = [
        alias.replace(" ", "-") for alias in find_gpu(target.gpu).aliases if alias.startswith("NVIDIA ")
    ]
    expression = {"key": "nvidia.com/gpu.product", "operator": "In", "values": products}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]
            }
        }
    }
