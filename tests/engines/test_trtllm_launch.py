"""The command lines that start Triton: one rank, leader mode, orchestrator mode, several nodes."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from enginewright_trtllm.launch import (
    Ports,
    RemoteRanks,
    ServerFlags,
    closed_administration,
    launch_server,
    leader_command,
)
from enginewright_trtllm.target import TrtllmTarget
from hypothesis import given
from hypothesis import strategies as st
from trtllm_targets import FP8, LONG, NATIVE

SERVER = (
    "tritonserver",
    "--model-repository=/models",
    "--grpc-port=8001",
    "--metrics-port=8002",
    "--grpc-address=0.0.0.0",
    "--metrics-address=0.0.0.0",
    "--http-port=8000",
    "--http-address=127.0.0.1",
)
TAIL = (
    "--grpc-keepalive-time=30000",
    "--grpc-keepalive-timeout=10000",
    "--grpc-http2-min-recv-ping-interval-without-data=10000",
    "--disable-auto-complete-config",
    "--backend-config=python,shm-region-prefix-name=prefix{}_",
    "--allow-sagemaker=false",
    "--allow-vertex-ai=false",
    "--exit-timeout-secs=60",
)


def tail(rank: int) -> tuple[str, ...]:
    return tuple(part.format(rank) for part in TAIL)


def ranks(argv: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The applications of an mpirun line, without mpirun's own part."""
    assert argv[:4] == ("mpirun", "--allow-run-as-root", "--bind-to", "none")
    return [tuple(part.split("\0")) for part in "\0".join(argv[4:]).split("\0:\0")]


def test_one_rank_is_a_plain_server() -> None:
    launch = launch_server(FP8, repository="/models")
    assert launch.argv == (*SERVER, *tail(0))
    assert launch.env == {}


def test_leader_mode_starts_a_server_a_rank_and_only_the_first_loads_everything() -> None:
    target = replace(FP8, tp=2, gpu_count=2)
    assert ranks(launch_server(target, repository="/models").argv) == [
        ("-n", "1", *SERVER, *tail(0)),
        ("-n", "1", *SERVER, "--model-control-mode=explicit", "--load-model=tensorrt_llm", *tail(1)),
    ]


@pytest.mark.parametrize(("tp", "pp"), [(1, 2), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2)])
def test_the_world_size_is_tp_times_pp(tp: int, pp: int) -> None:
    target = replace(FP8, tp=tp, pp=pp, gpu_count=tp * pp)
    applications = ranks(launch_server(target, repository="/models").argv)
    assert len(applications) == tp * pp == target.world_size
    assert all(application[:3] == ("-n", "1", "tritonserver") for application in applications)
    prefixes = {part for application in applications for part in application if "shm-region" in part}
    assert len(prefixes) == tp * pp


def test_several_variants_are_spawned_by_one_orchestrator_that_keeps_off_the_gpus() -> None:
    target = replace(FP8, tp=2, gpu_count=4, variants=(NATIVE, LONG))
    launch = launch_server(target, repository="/models")
    (application,) = ranks(launch.argv)
    assert application[:3] == ("-n", "1", "tritonserver")
    assert "--pinned-memory-pool-byte-size=0" in application
    assert [part for part in application if part.startswith("--cuda-memory-pool")] == [
        f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(4)
    ]
    assert launch.env["TRTLLM_ORCHESTRATOR"] == "1"
    assert launch.env["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] == "1"


def test_leader_mode_over_nodes_names_hosts_and_the_remote_shell() -> None:
    target = TrtllmTarget("fp8", "H100-80", gpu_count=16, tp=8, pp=2, nodes=2)
    command = leader_command(
        target, repository="/models", ports=Ports(), remote=RemoteRanks("a:8,b:8", "/agent/shell")
    )
    assert command[4:9] == ["--mca", "plm_rsh_agent", "/agent/shell", "--host", "a:8,b:8"]
    assert command.count("tritonserver") == 16


def test_ports_and_addresses_are_the_callers() -> None:
    ports = Ports(grpc=9001, http=9000, metrics=9002, grpc_address="127.0.0.1", metrics_address="10.0.0.1")
    argv = launch_server(FP8, repository="/models", ports=ports).argv
    for part in ("--grpc-port=9001", "--http-port=9000", "--metrics-port=9002", "--grpc-address=127.0.0.1"):
        assert part in argv
    assert "--metrics-address=10.0.0.1" in argv
    without = launch_server(FP8, repository="/models", ports=replace(ports, http=None)).argv
    assert [part for part in without if "http-" in part or "allow-http" in part] == ["--allow-http=false"]


def test_administration_is_sealed_on_every_rank_and_the_key_is_no_part_of_what_is_printed() -> None:
    flags = ServerFlags(exit_timeout=7, guard=closed_administration("s3cret"), sealed=("python3", "seal.py"))
    argv = launch_server(replace(FP8, tp=2, gpu_count=2), repository="/models", flags=flags).argv
    sealed = "shared-memory,model-repository,trace,logging:enginewright-admin=s3cret"
    assert argv.count(f"--grpc-restricted-protocol={sealed}") == 2
    assert argv.count(f"--http-restricted-api={sealed}") == 2
    assert argv.count("--exit-timeout-secs=7") == 2
    assert [argv[place - 1] == "seal.py" for place, part in enumerate(argv) if part == "tritonserver"] == [
        True,
        True,
    ]
    assert "s3cret" not in repr(flags)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_repository_path_survives_the_shell(path: str) -> None:
    argv = launch_server(replace(FP8, tp=2, gpu_count=2), repository=path).argv
    assert tuple(shlex.split(shlex.join(argv))) == argv
    assert argv.count(f"--model-repository={path}") == 2
