"""`enginewright deploy`: files that parse and say what the manifest says, and refusals that write nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from enginewright.load_recipe import load_trtllm_recipe
from enginewright.trtllm_recipe import trtllm_target
from enginewright_trtllm.launch import ServerFlags, closed_administration, launch_server
from trtllm_built import write_built

ENGINEWRIGHT = Path(sys.executable).with_name("enginewright")
TP2 = "qwq-32b-fp8-tp2"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tp 2 on two H100."""
    return write_built(tmp_path_factory.mktemp("built") / "qwq")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENGINEWRIGHT, "deploy", *arguments], capture_output=True, text=True, check=False)


def refused(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, error and hint."""
    done = run(*arguments)
    [error, hint] = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return done.returncode, error, hint


def services(out: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((out / "compose.yaml").read_text())
    return dict(data["services"])


def objects(out: Path) -> dict[str, dict[str, Any]]:
    """kind -> object, of what `kubectl apply -k` applies."""
    found = {}
    for name in yaml.safe_load((out / "kustomization.yaml").read_text())["resources"]:
        for document in yaml.safe_load_all((out / name).read_text()):
            found[document["kind"]] = document
    return found


def test_compose_serves_the_built_repository_and_says_how(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("compose", built, "--out", out, "--host", "0.0.0.0", "--grpc-port", "9001")
    assert done.returncode == 0, done.stderr
    assert str(out / "compose.yaml") in done.stdout
    assert f"docker compose --file {out / 'compose.yaml'} up --detach --wait" in done.stdout
    assert 'enginewright ask "Hello" --server 127.0.0.1:9001' in done.stdout
    service = services(out)["triton"]
    assert service["volumes"][0]["source"] == str(built)
    assert service["ports"] == ["0.0.0.0:9001:9001", "127.0.0.1:8002:8002"]
    assert "--grpc-port=9001" in service["command"]
    assert service["command"].count("tritonserver") == 2


def test_replicas_have_gpus_and_ports_of_their_own(built: Path, tmp_path: Path) -> None:
    done = run("compose", built, "--out", tmp_path, "--replicas", "2", "--gpus", "4,5,2,3")
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:8001 to 127.0.0.1:8011" in done.stdout
    found = services(tmp_path)
    assert list(found) == ["triton", "triton-1"]
    reserved = [
        service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for service in found.values()
    ]
    assert reserved == [["4", "5"], ["2", "3"]]
    assert [service["ports"][0] for service in found.values()] == [
        "127.0.0.1:8001:8001",
        "127.0.0.1:8011:8001",
    ]


def test_gpus_that_do_not_come_out_are_refused(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, error, hint = refused("compose", built, "--out", out, "--replicas", "2", "--gpus", "0,1,2")
    assert (code, error) == (2, "error: deploy: 3 GPUs for 2 replicas of 2")
    assert "Give 4" in hint
    assert not out.exists()


def test_kubernetes_gets_what_apply_needs_and_the_chart_what_it_needs(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("k8s", built, "--out", out, "--namespace", "models", "--replicas", "2", "--max-replicas", "6")
    assert done.returncode == 0, done.stderr
    for path in sorted(out.iterdir()):
        assert str(path) in done.stdout
    assert f"kubectl apply -k {out}" in done.stdout
    assert f"claim {TP2}-repository of namespace models" in done.stdout
    found = objects(out)
    assert {"Deployment", "Service", "NetworkPolicy", "HorizontalPodAutoscaler", "PodMonitor"} == set(found)
    assert {item["metadata"]["namespace"] for item in found.values()} == {"models"}
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    target = trtllm_target(load_trtllm_recipe(TP2))
    arguments = tuple(pod["containers"][0]["args"])
    [key] = {word.rpartition("=")[2] for word in arguments if word.startswith("--grpc-restricted-protocol")}
    flags = ServerFlags(guard=closed_administration(key))
    assert arguments == launch_server(target, repository="/models", flags=flags).argv
    [claim] = [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claim["persistentVolumeClaim"]["claimName"] == f"{TP2}-repository"
    # Helm's values are no object of the cluster.
    assert "prometheus-adapter-values.yaml" not in (out / "kustomization.yaml").read_text()


def test_two_machines_are_a_leader_worker_set(built: Path, tmp_path: Path) -> None:
    code, error, hint = refused("k8s", built, "--out", tmp_path / "no", "--nodes", "2")
    assert (code, "image with sh and kubectl" in error, "--kubectl-image" in hint) == (2, True, True)
    assert not (tmp_path / "no").exists()
    done = run("k8s", built, "--out", tmp_path, "--nodes", "2", "--kubectl-image", "tools:1")
    assert "LeaderWorkerSet controller" in done.stdout
    spec = objects(tmp_path)["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    assert spec["size"] == 2
    assert refused("k8s", built, "--out", tmp_path / "no", "--nodes", "3")[0] == 2


def test_a_folder_in_use_is_refused_until_forced(built: Path, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("mine")
    code, error, hint = refused("compose", built, "--out", tmp_path)
    assert (code, error) == (2, f"error: --out {tmp_path} is not empty")
    assert "--force" in hint
    assert (tmp_path / "compose.yaml").read_text() == "mine"
    assert run("compose", built, "--out", tmp_path, "--force").returncode == 0
    assert "triton" in services(tmp_path)


@pytest.mark.parametrize("command", ["compose", "k8s"])
def test_a_repository_is_not_written_into(command: str, built: Path) -> None:
    before = sorted(built.rglob("*"))
    code, error, _ = refused(command, built, "--out", built / "deploy")
    assert (code, "inside the repository" in error) == (2, True)
    assert sorted(built.rglob("*")) == before


def test_what_cannot_be_written_is_one_line(built: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, error, _ = refused("compose", built, "--out", tmp_path / "file" / "out")
    assert (code, "cannot be written" in error) == (4, True)


@pytest.mark.parametrize(
    ("manifest", "message", "hint"),
    [
        (None, "is not the output folder of a build", "build-engine"),
        ({"target": "onnx"}, "was built for target onnx", "enginewright serve"),
        ({"target": "trtllm", "chain": {"handoff": {}}}, "not compiled yet", "GPUs"),
        ({"target": "trtllm", "chain": {"package": {}}, "recipe": {}}, "of this version", "build it again"),
    ],
)
@pytest.mark.parametrize("command", ["compose", "k8s"])
def test_only_finished_tensorrt_llm_builds_are_deployed(
    command: str, manifest: dict[str, Any] | None, message: str, hint: str, tmp_path: Path
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code, error, said = refused(command, tmp_path, "--out", tmp_path.parent / "out")
    assert code == 2
    assert message in error
    assert hint in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compose", "--host", "example"), "--host example is not an IPv4 address"),
        (("compose", "--grpc-port", "8002"), "are both 8002"),
        (("compose", "--name", "Not a label"), "is not a DNS label"),
        (("k8s", "--namespace", "x_y"), "namespace 'x_y' is not a DNS label"),
        (("k8s", "--replicas", "5", "--max-replicas", "2"), "replicas 5 with max_replicas 2"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    arguments: tuple[str, ...], message: str, built: Path, tmp_path: Path
) -> None:
    command, *options = arguments
    code, error, _ = refused(command, built, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in error


@pytest.mark.parametrize(("command", "word"), [("compose", "--gpus"), ("k8s", "--kubectl-image")])
def test_help_teaches_by_example(command: str, word: str) -> None:
    shown = run(command, "--help").stdout
    assert f"enginewright deploy {command} models/" in shown
    assert word in shown
    assert command in run("--help").stdout


def test_a_hidden_file_is_warned_of(tmp_path: Path) -> None:
    built = write_built(tmp_path / "built")
    (built / "llm" / "config.pbtxt").chmod(0o600)
    assert f"chmod -R a+rX {built}" in run("compose", built, "--out", tmp_path / "out").stdout
