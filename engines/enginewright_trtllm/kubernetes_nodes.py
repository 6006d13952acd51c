"""A LeaderWorkerSet: one engine over several nodes.

The leader pod runs mpirun, whose remote shell is `kubectl exec` into the worker pods (they sleep until then).
So the leader alone has a service account, allowed to look at pods and to exec into them, and nothing else.
kubectl is copied out of an image that the user names. Written from upstream's and LWS's examples; not run
here.
"""

from __future__ import annotations

import shlex
from typing import Any

from enginewright_errors import UsageError
from enginewright_model import ModelSpec

from enginewright_trtllm.container import MODELS
from enginewright_trtllm.deploy_options import DeployOptions
from enginewright_trtllm.kubernetes_pod import pod_spec
from enginewright_trtllm.launch import RemoteRanks, leader_command, mpi_environment
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["leader_script", "leader_worker_set", "multi_node_objects"]

_TOOLS = "/tools"
_AGENT_FOLDER = "/agent"
_AGENT = f"{_AGENT_FOLDER}/pod-shell"
_HOSTS = "@hosts@"
_AGENT_SCRIPT = f"""#!/bin/sh
# mpirun's remote shell: pod-shell POD COMMAND...
pod=$1
shift
exec {_TOOLS}/kubectl exec "$pod" --container triton -- /bin/sh -c "$*"
"""
_LEADER_SCRIPT = """set -eu
# LWS calls the leader NAME-INDEX and its workers NAME-INDEX-1, NAME-INDEX-2, ...
leader=$(hostname)
hosts=$leader:{slots}
worker=1
while [ "$worker" -lt "$LWS_GROUP_SIZE" ]; do
    pod=$leader-$worker
    tries=0
    until {agent} "$pod" true 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 120 ] || {{ echo "worker $pod did not start" >&2; exit 1; }}
        sleep 5
    done
    hosts=$hosts,$pod:{slots}
    worker=$((worker + 1))
done
exec {command}
"""


def multi_node_objects(target: TrtllmTarget, dims: ModelSpec, options: DeployOptions) -> list[dict[str, Any]]:
    """Service account, role, its binding, the remote shell, and the LeaderWorkerSet."""
    name = f"{options.name}-leader"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": options.namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": name},
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [subject],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"pod-shell": _AGENT_SCRIPT},
        },
        leader_worker_set(target, dims, options),
    ]


def leader_worker_set(target: TrtllmTarget, dims: ModelSpec, options: DeployOptions) -> dict[str, Any]:
    """Raises UsageError without `kubectl_image`."""
    if options.kubectl_image is None:
        raise UsageError(
            f"deploy: {target.nodes} nodes need an image with sh and kubectl, for mpirun's remote shell",
            code="deploy-option",
            hint="Name one that fits the cluster's version, e.g. --kubectl-image alpine/k8s:1.33.4.",
        )
    leader = pod_spec(
        target,
        dims,
        options,
        command=["/bin/sh", "-c", leader_script(target, options)],
        env=mpi_environment(),
        probed=True,
    )
    _with_remote_shell(leader, options.kubectl_image, f"{options.name}-leader")
    worker = pod_spec(
        target, dims, options, command=["/bin/sh", "-c", "exec sleep infinity"], env={}, probed=False
    )
    labels = {"app.kubernetes.io/name": options.name}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": options.name, "labels": labels},
        "spec": {
            "replicas": options.replicas,
            "leaderWorkerTemplate": {
                "size": target.nodes,
                # A rank that is lost takes the others with it: start all of them again.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": labels}, "spec": leader},
                "workerTemplate": {"metadata": {}, "spec": worker},
            },
        },
    }


def leader_script(target: TrtllmTarget, options: DeployOptions) -> str:
    """POSIX shell of the leader: wait for the workers, then mpirun over all pods."""
    command = leader_command(
        target,
        repository=MODELS,
        ports=options.ports,
        flags=options.flags,
        remote=RemoteRanks(_HOSTS, _AGENT),
    )
    quoted = shlex.join(command).replace(shlex.quote(_HOSTS), '"$hosts"')
    return _LEADER_SCRIPT.format(slots=target.gpus_per_node, agent=_AGENT, command=quoted)


def _with_remote_shell(spec: dict[str, Any], image: str, name: str) -> None:
    container = spec["containers"][0]
    spec["serviceAccountName"] = name
    spec["automountServiceAccountToken"] = True
    spec["initContainers"] = [
        {
            "name": "kubectl",
            "image": image,
            "command": ["/bin/sh", "-c", f'cp "$(command -v kubectl)" {_TOOLS}/kubectl'],
            "securityContext": container["securityContext"],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
            "volumeMounts": [{"name": "tools", "mountPath": _TOOLS}],
        }
    ]
    container["volumeMounts"] += [
        {"name": "tools", "mountPath": _TOOLS, "readOnly": True},
        {"name": "agent", "mountPath": _AGENT_FOLDER, "readOnly": True},
    ]
    spec["volumes"] += [
        {"name": "tools", "emptyDir": {}},
        {"name": "agent", "configMap": {"name": name, "defaultMode": 0o555}},
    ]
