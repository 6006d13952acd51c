"""Compose file and Kubernetes manifests: they parse, start what `launch` says, and are hardened."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from enginewright_errors import UsageError
from enginewright_trtllm.deploy_compose import write_compose
from enginewright_trtllm.deploy_kubernetes import write_kubernetes
from enginewright_trtllm.deploy_options import DeployOptions, probe_command
from enginewright_trtllm.kubernetes_nodes import leader_script
from enginewright_trtllm.launch import Ports, ServerFlags, closed_administration, launch_server
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.weights import engine_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from trtllm_targets import FP8, NATIVE, QWQ, TARGETS

TWO_NODES = TrtllmTarget("bf16", "H100-80", gpu_count=16, tp=8, pp=2, nodes=2)
TP2 = TARGETS["qwq-32b-fp8-tp2"]
KEY = "0123456789abcdef"


def compose(folder: Path, target: TrtllmTarget = FP8, **options: Any) -> dict[str, Any]:
    path = write_compose(folder, target, QWQ, DeployOptions(admin_key=KEY, **options))
    return yaml.safe_load(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def kubernetes(folder: Path, target: TrtllmTarget = FP8, **options: Any) -> dict[str, dict[str, Any]]:
    """kind -> object, over all files; the adapter's values under their file's name."""
    objects: dict[str, dict[str, Any]] = {}
    for path in write_kubernetes(folder, target, QWQ, DeployOptions(admin_key=KEY, **options)):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            objects[document.get("kind", path.name)] = document
    return objects


def pods(objects: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if "Deployment" in objects:
        yield objects["Deployment"]["spec"]["template"]["spec"]
    else:
        template = objects["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
        yield template["leaderTemplate"]["spec"]
        yield template["workerTemplate"]["spec"]


@pytest.mark.parametrize("name", TARGETS)
def test_compose_starts_the_launch_line_on_all_gpus(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    service = compose(tmp_path, target)["services"]["triton"]
    launch = launch_server(target, repository="/models", flags=ServerFlags(guard=closed_administration(KEY)))
    assert tuple(service["command"]) == launch.argv
    assert launch.env.items() <= service["environment"].items()
    (devices,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": target.gpu_count, "capabilities": ["gpu"]}


def test_compose_is_hardened_and_local(tmp_path: Path) -> None:
    service = compose(tmp_path)["services"]["triton"]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"] == ["127.0.0.1:8001:8001", "127.0.0.1:8002:8002"]
    assert service["volumes"][0]["read_only"] is True
    assert service["shm_size"] == "2g"
    assert int(service["mem_limit"].rstrip("g")) * 2**30 > engine_bytes(QWQ, FP8, NATIVE)
    assert "generate" in service["healthcheck"]["test"][-1]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1))
def test_a_repository_path_reaches_docker_as_it_is(path: str) -> None:
    from enginewright_trtllm.deploy_compose import compose_file

    text = yaml.safe_dump(compose_file(FP8, QWQ, DeployOptions(repository=path)))
    source = yaml.safe_load(text)["services"]["triton"]["volumes"][0]["source"]
    # Compose replaces $$ by $ and would replace a single $NAME by the environment's.
    assert source.replace("$$", "\0").count("$") == 0
    assert source.replace("$$", "$") == path


@pytest.mark.parametrize("target", [FP8, TP2, TARGETS["qwq-32b-int4-awq-yarn"], TWO_NODES])
def test_pods_are_hardened(target: TrtllmTarget, tmp_path: Path) -> None:
    for spec in pods(kubernetes(tmp_path, target, kubectl_image="tools:1")):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
        mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts["repository"]["readOnly"] is True
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert set(mounts) == set(volumes) & set(mounts)


def test_one_pod_has_all_gpus_of_an_engine_on_the_right_card(tmp_path: Path) -> None:
    (spec,) = pods(kubernetes(tmp_path, TP2))
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "command" not in container
    assert (
        tuple(container["args"])
        == launch_server(TP2, repository="/models", flags=ServerFlags(guard=closed_administration(KEY))).argv
    )
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (expression,) = terms["nodeSelectorTerms"][0]["matchExpressions"]
    assert expression["key"] == "nvidia.com/gpu.product"
    assert expression["values"] == ["NVIDIA-H100-80GB-HBM3"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec


def test_a_pod_is_started_and_alive_when_a_token_came_out(tmp_path: Path) -> None:
    (spec,) = pods(kubernetes(tmp_path))
    (container,) = spec["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        assert "/v2/models/llm/generate" in container[probe]["exec"]["command"][-1]
    # Half an hour and more of loading is no failure; a busy replica stays in the service.
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1200
    assert container["readinessProbe"]["grpc"] == {"port": 8001}


def test_the_probe_is_valid_python_that_asks_for_one_token() -> None:
    program = probe_command(Ports(http=9000), 7)
    assert program[:2] == ["python3", "-c"]
    compile(program[2], "probe", "exec")
    assert "127.0.0.1:9000" in program[2]
    assert "timeout=7" in program[2]
    assert "'max_tokens': 1" in program[2]


def test_the_autoscaler_follows_what_waits_in_backend_and_front(tmp_path: Path) -> None:
    objects = kubernetes(tmp_path, replicas=2, max_replicas=6, waiting=3)
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llm"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    names = [metric["pods"]["metric"]["name"] for metric in scaler["metrics"]]
    rules = objects["prometheus-adapter-values.yaml"]["rules"]["custom"]
    assert names == [rule["name"]["as"] for rule in rules]
    assert all(metric["pods"]["target"]["averageValue"] == "3" for metric in scaler["metrics"])
    assert 'nv_trt_llm_request_metrics{request_type="waiting",<<.LabelMatchers>>}' in rules[0]["metricsQuery"]
    port = objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"]
    (spec,) = pods(objects)
    assert port in [item["name"] for item in spec["containers"][0]["ports"]]


def test_labels_tie_service_policy_monitor_and_deployment_together(tmp_path: Path) -> None:
    objects = kubernetes(tmp_path, name="qwq")
    labels = {"app.kubernetes.io/name": "qwq"}
    assert objects["Deployment"]["spec"]["template"]["metadata"]["labels"] == labels
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodMonitor"]["spec"]["selector"]["matchLabels"] == labels
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["egress"] == []
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": 8001}], [{"port": 8002}]]


def test_every_object_is_in_the_namespace_that_was_named(tmp_path: Path) -> None:
    objects = kubernetes(tmp_path, TWO_NODES, kubectl_image="tools:1", namespace="models")
    del objects["prometheus-adapter-values.yaml"], objects["Kustomization"]  # no objects of the cluster
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"models"}
    (subject,) = objects["RoleBinding"]["subjects"]
    assert subject["namespace"] == "models"


def test_two_nodes_are_a_leader_that_may_exec_and_workers_that_may_nothing(tmp_path: Path) -> None:
    objects = kubernetes(tmp_path, TWO_NODES, kubectl_image="tools:1")
    template = objects["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    leader, worker = pods(objects)
    assert template["size"] == 2
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert leader["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert leader["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert worker["automountServiceAccountToken"] is False
    assert "livenessProbe" not in worker["containers"][0]
    assert objects["Role"]["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
    ]
    assert objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["kind"] == "LeaderWorkerSet"
    # Egress between the ranks cannot be named: no policy rather than one that breaks them.
    assert "NetworkPolicy" not in objects


def test_the_leader_waits_for_its_workers_and_runs_every_rank(tmp_path: Path) -> None:
    """The script runs as it is, with stand-ins for hostname, the remote shell and mpirun."""
    script = leader_script(TWO_NODES, DeployOptions())
    agent, tries = tmp_path / "agent", tmp_path / "tries"
    agent.write_text(f'#!/bin/sh\necho "$@" >>{tries}\n[ "$(wc -l <{tries})" -ge 2 ]\n')
    for name, body in (("hostname", "echo llm-0"), ("mpirun", 'printf "%s\\n" "$@"'), ("sleep", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    agent.chmod(0o755)
    result = subprocess.run(
        ["/bin/sh", "-c", script.replace("/agent/pod-shell", str(agent))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "LWS_GROUP_SIZE": "2"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    arguments = result.stdout.splitlines()
    assert arguments[arguments.index("--host") + 1] == "llm-0:8,llm-0-1:8"
    assert arguments.count("tritonserver") == 16
    assert tries.read_text().splitlines() == ["llm-0-1 true", "llm-0-1 true"]


def test_the_remote_shell_passes_the_whole_command_to_one_shell(tmp_path: Path) -> None:
    shell = kubernetes(tmp_path, TWO_NODES, kubectl_image="tools:1")["ConfigMap"]["data"]["pod-shell"]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    kubectl.chmod(0o755)
    result = subprocess.run(
        [
            "/bin/sh",
            "-c",
            shell.replace("/tools/kubectl", str(kubectl)),
            "pod-shell",
            "llm-0-1",
            "orted",
            "-mca a b",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout == "exec|llm-0-1|--container|triton|--|/bin/sh|-c|orted -mca a b|"


def test_several_nodes_without_a_kubectl_image_are_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kubectl") as caught:
        kubernetes(tmp_path, TWO_NODES)
    assert "--kubectl-image" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"name": "Not A Label"},
        {"claim": "x_y"},
        {"name": ""},
        {"replicas": 0},
        {"replicas": 5, "max_replicas": 4},
    ],
)
def test_options_that_kubernetes_would_refuse_are_refused_here(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="deploy"):
        DeployOptions(**options)


def test_every_deployment_has_an_administrators_key_of_its_own() -> None:
    first, second = DeployOptions(), DeployOptions()
    assert first.admin_key != second.admin_key
    assert len(first.admin_key) == 32
    assert f"enginewright-admin={first.admin_key}" in leader_script(TWO_NODES, first)


def test_memory_of_a_pod_holds_the_engines_that_pass_through_it(tmp_path: Path) -> None:
    (small,) = pods(kubernetes(tmp_path / "a"))
    (large,) = pods(kubernetes(tmp_path / "b", replace(TWO_NODES, nodes=1, tp=8, pp=1, gpu_count=8)))
    sizes = [
        int(spec["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi"))
        for spec in (small, large)
    ]
    assert 34.3 < sizes[0] < sizes[1]
    assert sizes[1] * 2**30 > engine_bytes(QWQ, TWO_NODES, NATIVE)
