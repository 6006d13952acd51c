"""A compose file that serves a target on one host: hardened, ports on the loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from enginewright_errors import UsageError
from enginewright_model import ModelSpec

from enginewright_trtllm.container import MODELS, SERVER_USER, shm_gib
from enginewright_trtllm.deploy_options import DeployOptions, host_memory_gib, probe_command, scratch_gib
from enginewright_trtllm.launch import launch_server
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.versions import container_image

__all__ = ["PORT_STEP", "compose_file", "write_compose"]

PORT_STEP = 10
_PROBE_SECONDS = 30


def write_compose(folder: Path, target: TrtllmTarget, dims: ModelSpec, options: DeployOptions) -> Path:
    """Write `folder/compose.yaml` and return its path."""
    text = yaml.safe_dump(compose_file(target, dims, options), sort_keys=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "compose.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def compose_file(target: TrtllmTarget, dims: ModelSpec, options: DeployOptions) -> dict[str, Any]:
    """The compose file as data. `docker compose up --wait` returns once an inference has worked.

    Replicas are services of their own, `triton`, `triton-1`, ...: each has GPUs of its own, and its ports are
    `PORT_STEP` above those of the one before. Raises UsageError for a number of GPUs that does not come out.
    """
    services = {}
    for replica, gpus in enumerate(_gpus(target, options)):
        name = f"triton-{replica}" if replica else "triton"
        services[name] = _service(target, dims, options, gpus=gpus, port_offset=replica * PORT_STEP)
    return {"name": options.name, "services": services}


def _gpus(target: TrtllmTarget, options: DeployOptions) -> list[tuple[int, ...]]:
    """The GPUs of each replica; () leaves the choice to docker, which a single one may."""
    if options.replicas == 1 and not options.gpus:
        return [()]
    each, count = target.gpu_count, options.replicas
    gpus = options.gpus or tuple(range(count * each))
    if len(gpus) != count * each:
        raise UsageError(
            f"deploy: {len(gpus)} GPUs for {count} replicas of {each}",
            code="deploy-option",
            hint=f"Give {count * each} with --gpus, or another number of --replicas.",
        )
    return [gpus[first : first + each] for first in range(0, len(gpus), each)]


def _service(
    target: TrtllmTarget, dims: ModelSpec, options: DeployOptions, *, gpus: tuple[int, ...], port_offset: int
) -> dict[str, Any]:
    ports = options.ports
    launch = launch_server(target, repository=MODELS, ports=ports, flags=options.flags)
    shm = shm_gib(target)
    devices = {"device_ids": [str(gpu) for gpu in gpus]} if gpus else {"count": target.gpu_count}
    return {
        "image": container_image(target.container),
        "command": [_literal(part) for part in launch.argv],
        "environment": {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **launch.env},
        "user": SERVER_USER,
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": [f"/tmp:rw,exec,nosuid,nodev,size={scratch_gib}g"],
        "shm_size": f"{shm}g",
        "mem_limit": f"{host_memory_gib(target, dims, shm)}g",
        "pids_limit": 4096,
        "ulimits": {"memlock": -1, "stack": 67_108_864},
        "ports": [
            f"{host}:{port + port_offset}:{port}"
            for host, port in ((options.host, ports.grpc), (options.metrics_host, ports.metrics))
        ],
        "volumes": [
            {"type": "bind", "source": _literal(options.repository), "target": MODELS, "read_only": True}
        ],
        "deploy": {
            "resources": {
                "reservations": {"devices": [{"driver": "nvidia", **devices, "capabilities": ["gpu"]}]}
            }
        },
        "healthcheck": {
            "test": ["CMD", *map(_literal, probe_command(ports, _PROBE_SECONDS))],
            "interval": "30s",
            "timeout": f"{_PROBE_SECONDS + 5}s",
            "retries": 5,
            "start_period": "15m",
            "start_interval": "10s",
        },
        "restart": "unless-stopped",
        "stop_grace_period": "90s",
    }


def _literal(text: str) -> str:
    # Compose substitutes $NAME in every string; $$ is a dollar.
    return text.replace("$", "$$")
