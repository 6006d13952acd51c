"""Kubernetes manifests of a target, rendered to a folder.

server.yaml                     Deployment (one node) or LeaderWorkerSet (several) and what it needs
network.yaml                    Service and NetworkPolicy
autoscaling.yaml                HorizontalPodAutoscaler and PodMonitor
kustomization.yaml              these three, for `kubectl apply -k`
prometheus-adapter-values.yaml  values for the adapter's chart: the metrics that the autoscaler follows
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from enginewright_model import ModelSpec

from enginewright_trtllm.container import MODELS
from enginewright_trtllm.deploy_options import DeployOptions
from enginewright_trtllm.kubernetes_nodes import multi_node_objects
from enginewright_trtllm.kubernetes_pod import pod_spec
from enginewright_trtllm.kubernetes_scaling import adapter_values, autoscaler, pod_monitor
from enginewright_trtllm.launch import launch_server
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["kubernetes_files", "write_kubernetes"]


def write_kubernetes(
    folder: Path, target: TrtllmTarget, dims: ModelSpec, options: DeployOptions
) -> tuple[Path, ...]:
    """Write the files into `folder`, made if it is not there; returns their paths.

    Raises RecipeError for an unknown GPU, UsageError for options that cannot be.
    """
    files = kubernetes_files(target, dims, options)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, documents in files.items():
        path = folder / name
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
        paths.append(path)
    return tuple(paths)


def kubernetes_files(
    target: TrtllmTarget, dims: ModelSpec, options: DeployOptions
) -> Mapping[str, list[dict[str, Any]]]:
    """File name -> its YAML documents."""
    if target.nodes > 1:
        server = multi_node_objects(target, dims, options)
        scaled = ("LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1")
    else:
        server, scaled = [_deployment(target, dims, options)], ("Deployment", "apps/v1")
    network = [_service(options)]
    # Ranks of several nodes talk on ports that MPI and NCCL choose: no policy can name them.
    network += [] if target.nodes > 1 else [_network_policy(options)]
    scaling = [autoscaler(options, *scaled), pod_monitor(options)]
    for document in (*server, *network, *scaling):
        document["metadata"]["namespace"] = options.namespace
    applied = {"server.yaml": server, "network.yaml": network, "autoscaling.yaml": scaling}
    return {
        **applied,
        "kustomization.yaml": [_kustomization(applied)],
        "prometheus-adapter-values.yaml": [adapter_values()],
    }


def _kustomization(resources: Iterable[str]) -> dict[str, Any]:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(resources),
    }


def _labels(options: DeployOptions) -> dict[str, str]:
    return {"app.kubernetes.io/name": options.name}


def _deployment(target: TrtllmTarget, dims: ModelSpec, options: DeployOptions) -> dict[str, Any]:
    launch = launch_server(target, repository=MODELS, ports=options.ports, flags=options.flags)
    spec = pod_spec(target, dims, options, command=launch.argv, env=launch.env, probed=True)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": options.name, "labels": _labels(options)},
        "spec": {
            "replicas": options.replicas,
            "selector": {"matchLabels": _labels(options)},
            # Spare GPUs for a surge are rare: the old replica goes first.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": 1800,
            "template": {"metadata": {"labels": _labels(options)}, "spec": spec},
        },
    }


def _service(options: DeployOptions) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": options.name, "labels": _labels(options)},
        "spec": {
            # Headless: gRPC keeps one connection, so clients balance by DNS (round_robin), not kube-proxy.
            "clusterIP": "None",
            "selector": _labels(options),
            "ports": [{"name": "grpc", "port": options.ports.grpc, "targetPort": "grpc"}],
        },
    }


def _network_policy(options: DeployOptions) -> dict[str, Any]:
    label = {"kubernetes.io/metadata.name": options.monitoring_namespace}
    monitoring = {"namespaceSelector": {"matchLabels": label}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": options.name},
        "spec": {
            "podSelector": {"matchLabels": _labels(options)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": {}}], "ports": [{"port": options.ports.grpc}]},
                {"from": [monitoring], "ports": [{"port": options.ports.metrics}]},
            ],
            "egress": [],
        },
    }
