"""Autoscaling on waiting requests: the HorizontalPodAutoscaler and what feeds it.

Triton hands a request to the C++ backend at once, so nv_inference_pending_request_count stays near zero
under load. What waits is counted by the backend (nv_trt_llm_request_metrics) and by the front
(enginewright_requests_waiting); prometheus-adapter offers both to the autoscaler, which follows the higher.
"""

from __future__ import annotations

from typing import Any

from enginewright_trtllm.deploy_options import DeployOptions

__all__ = ["adapter_values", "autoscaler", "pod_monitor"]

_BACKEND, _FRONT = "trtllm_requests_waiting", "enginewright_requests_waiting"
_LONG_SECONDS = 600


def autoscaler(options: DeployOptions, kind: str, api_version: str) -> dict[str, Any]:
    """autoscaling/v2, for the object of that kind. Down is slow: a new replica loads for minutes."""
    target = {"type": "AverageValue", "averageValue": str(options.waiting)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": options.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": options.name},
            "minReplicas": options.replicas,
            "maxReplicas": options.max_replicas,
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}
                for name in (_BACKEND, _FRONT)
            ],
            "behavior": {
                "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [_one_every(60)]},
                "scaleDown": {
                    "stabilizationWindowSeconds": _LONG_SECONDS,
                    "policies": [_one_every(_LONG_SECONDS)],
                },
            },
        },
    }


def adapter_values() -> dict[str, Any]:
    """Values for the Helm chart of prometheus-adapter."""
    return {
        "rules": {
            "custom": [
                _rule("nv_trt_llm_request_metrics", _BACKEND, 'request_type="waiting",'),
                _rule(_FRONT, _FRONT, ""),
            ]
        }
    }


def pod_monitor(options: DeployOptions) -> dict[str, Any]:
    """Has Prometheus (its operator) scrape the server's pods."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": options.name},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": options.name}},
            "podMetricsEndpoints": [{"port": "metrics", "interval": "10s"}],
        },
    }


def _rule(series: str, name: str, selector: str) -> dict[str, Any]:
    return {
        "seriesQuery": f'{series}{{{selector}namespace!="",pod!=""}}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"as": name},
        "metricsQuery": f"sum({series}{{{selector}<<.LabelMatchers>>}}) by (<<.GroupBy>>)",
    }


def _one_every(seconds: int) -> dict[str, Any]:
    return {"type": "Pods", "value": 1, "periodSeconds": seconds}
