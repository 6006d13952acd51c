"""`enginewright deploy compose|k8s REPO`: the files that serve a TensorRT-LLM repository on GPU machines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import StageFailed, UsageError

if TYPE_CHECKING:
    from enginewright.trtllm_repository import TrtllmRepository

__all__ = ["compose", "k8s"]

_Repository = Annotated[
    Path, typer.Argument(metavar="REPO", help="The output folder of a build for target trtllm.")
]
_Out = Annotated[Path, typer.Option("--out", help="Folder that the files are written to.")]
_Force = Annotated[bool, typer.Option("--force", help="Write even if the folder is not empty.")]
_Name = Annotated[
    str | None, typer.Option("--name", help="Of the service [default: made of the build's name].")
]
_GrpcPort = Annotated[int, typer.Option("--grpc-port", min=1, max=65535, help="Port for clients.")]
_MetricsPort = Annotated[int, typer.Option("--metrics-port", min=1, max=65535, help="Port for Prometheus.")]
_Replicas = Annotated[int, typer.Option("--replicas", min=1, help="Servers, each with the recipe's GPUs.")]


def compose(
    repository: _Repository,
    out: _Out,
    name: _Name = None,
    host: Annotated[
        str, typer.Option("--host", help="IPv4 address to publish the gRPC port at; it is not encrypted.")
    ] = "127.0.0.1",
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", help="IPv4 address to publish the metrics at.")
    ] = "127.0.0.1",
    grpc_port: _GrpcPort = 8001,
    metrics_port: _MetricsPort = 8002,
    replicas: _Replicas = 1,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="0,1,...", help="Which GPUs, for all replicas in order.")
    ] = None,
    force: _Force = False,
) -> None:
    """Write a Compose file: NVIDIA's image as an ordinary user, the repository read-only, GPUs, health by a
    real token.

    Further replicas listen 10 ports above the one before. There is no TLS and no token here, as there is in
    `enginewright serve`: put a proxy in front of a --host that others reach. The key in the file closes
    Triton's administration, new at each writing; nobody needs it.

    \b
    Examples:
        enginewright deploy compose models/qwq-32b-fp8-tp2 --out deploy
        enginewright deploy compose models/qwq-32b-fp8-h100 --out deploy --replicas 2 --gpus 0,1
    """
    from enginewright_trtllm.deploy_compose import PORT_STEP, write_compose
    from enginewright_trtllm.deploy_options import DeployOptions
    from enginewright_trtllm.launch import make_ports

    from enginewright.gpu_indices import gpu_indices
    from enginewright.trtllm_checks import check_one_node, unreadable_file
    from enginewright.trtllm_repository import read_trtllm_repository

    built = read_trtllm_repository(repository)
    check_one_node(built)
    options = DeployOptions(
        name=name or _label(built.name),
        repository=str(built.folder),
        host=_ipv4("--host", host),
        metrics_host=_ipv4("--metrics-host", metrics_host),
        gpus=gpu_indices(gpus),
        replicas=replicas,
        max_replicas=replicas,
        ports=make_ports(grpc_port, metrics_port),
    )
    with _writing(out, built, force=force):
        path = write_compose(out, built.target, built.dims(), options)
    if hidden := unreadable_file(built):
        print(f"warning: {hidden} cannot be read by the container's user: chmod -R a+rX {built.folder}")
    address = "127.0.0.1" if host == "0.0.0.0" else host
    _report(
        built,
        [path],
        [
            f"docker compose --file {shlex.quote(str(path))} up --detach --wait",
            f'enginewright ask "Hello" --server {address}:{grpc_port}',
        ],
    )
    if replicas > 1:
        last = grpc_port + (replicas - 1) * PORT_STEP
        print(f"replicas listen at {address}:{grpc_port} to {address}:{last}, {PORT_STEP} apart")


def k8s(
    repository: _Repository,
    out: _Out,
    name: _Name = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Of the server.")] = "default",
    monitoring_namespace: Annotated[
        str, typer.Option("--monitoring-namespace", help="Where Prometheus runs.")
    ] = "monitoring",
    claim: Annotated[
        str | None,
        typer.Option("--claim", help="PersistentVolumeClaim with the repository [default: NAME-repository]."),
    ] = None,
    replicas: _Replicas = 1,
    max_replicas: Annotated[
        int | None, typer.Option("--max-replicas", min=1, help="Where the autoscaler stops [default: 4].")
    ] = None,
    waiting: Annotated[
        int, typer.Option("--waiting", min=1, help="Waiting requests a replica that call for another.")
    ] = 4,
    cpu: Annotated[int, typer.Option("--cpu", min=1, help="Cores a replica.")] = 8,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Machines of one engine [default: the recipe's].")
    ] = None,
    kubectl_image: Annotated[
        str | None, typer.Option("--kubectl-image", help="With sh and kubectl; for several nodes.")
    ] = None,
    grpc_port: _GrpcPort = 8001,
    metrics_port: _MetricsPort = 8002,
    force: _Force = False,
) -> None:
    """Write Kubernetes manifests: a Deployment (on several nodes a LeaderWorkerSet), Service, NetworkPolicy,
    and an autoscaler on waiting requests.

    \b
    Examples:
        enginewright deploy k8s models/qwq-32b-fp8-tp2 --out manifests --namespace llm --max-replicas 8
        enginewright deploy k8s models/llama-405b --out manifests --nodes 2 --kubectl-image alpine/k8s:1.33.4
    """
    from enginewright_trtllm.deploy_kubernetes import write_kubernetes
    from enginewright_trtllm.deploy_options import DeployOptions
    from enginewright_trtllm.launch import make_ports

    from enginewright.trtllm_repository import read_trtllm_repository

    built = read_trtllm_repository(repository)
    target = built.target if nodes is None else replace(built.target, nodes=nodes)
    if target.gpu_count % target.nodes:
        raise UsageError(
            f"--nodes {target.nodes}: {target.gpu_count} GPUs do not divide into them",
            code="deploy-nodes",
            hint="give a number that divides the GPUs",
        )
    label = name or _label(built.name)
    options = DeployOptions(
        name=label,
        namespace=namespace,
        monitoring_namespace=monitoring_namespace,
        claim=claim or f"{label[:40].rstrip('-')}-repository",
        replicas=replicas,
        max_replicas=max_replicas or max(replicas, 4),
        waiting=waiting,
        cpu=cpu,
        kubectl_image=kubectl_image,
        ports=make_ports(grpc_port, metrics_port),
    )
    with _writing(out, built, force=force):
        paths = write_kubernetes(out, target, built.dims(), options)
    folder = shlex.quote(str(out))
    _report(
        built,
        paths,
        [
            f"# copy {built.folder} into the claim {options.claim} of namespace {namespace}",
            f"kubectl apply -k {folder}",
            f"helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter"
            f" --namespace {monitoring_namespace} --values {folder}/prometheus-adapter-values.yaml",
        ],
    )
    needs = ["the NVIDIA device plugin and GPU feature discovery", "Prometheus with its operator"]
    needs += ["the LeaderWorkerSet controller"] if target.nodes > 1 else []
    print(f"the cluster needs {', '.join(needs)}")


@contextmanager
def _writing(out: Path, built: TrtllmRepository, *, force: bool) -> Iterator[None]:
    """Refuse a folder that is in use; turn what the disk says into an error."""
    if out.resolve().is_relative_to(built.folder):
        raise UsageError(
            f"--out {out} is inside the repository, whose files are all in its manifest",
            code="output-in-repository",
            hint="give a folder beside it",
        )
    try:
        if not force and out.exists() and any(out.iterdir()):
            raise UsageError(
                f"--out {out} is not empty", code="output-not-empty", hint="give a new folder, or --force"
            )
        yield
    except OSError as error:
        raise StageFailed(
            f"{error.filename or out} cannot be written: {error.strerror or error}",
            code="not-writable",
            hint="check the path and its permissions",
        ) from error


def _report(built: TrtllmRepository, paths: Sequence[Path], commands: Sequence[str]) -> None:
    target = built.target
    variants = " and ".join(variant.name for variant in target.variants)
    print(f"{built.name}: {variants}, {target.gpu_count} x {target.gpu}")
    for path in paths:
        print(f"  {path}")
    print("next:")
    for command in commands:
        print(f"  {command}")


def _label(name: str) -> str:
    """A DNS label made of a build's name."""
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-")
    return label if label[:1].isalpha() else f"llm-{label}".rstrip("-")


def _ipv4(option: str, host: str) -> str:
    try:
        return str(IPv4Address(host))
    except AddressValueError:
        raise UsageError(
            f"{option} {host} is not an IPv4 address", code="bad-host", hint="127.0.0.1, or 0.0.0.0 for all"
        ) from None
