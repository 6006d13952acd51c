"""TensorRT-LLM builds that cannot work, fail or are killed: said early, and nothing wrong is kept."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright.durable import json_bytes
from enginewright.hashing import digest
from enginewright.verify_repository import verify_repository
from enginewright_errors import (
    DoesNotFit,
    GateFailed,
    RecipeError,
    StageFailed,
    UsageError,
)
from gpu_host import H100, GpuHost
from trtllm_builds import FP8, SETTINGS, Builds, names_of


@pytest.mark.parametrize(
    ("prepare", "message", "hint"),
    [
        (lambda host: host.versions("1.3.0", "10.15"), "TensorRT-LLM 1.3.0 cannot be used", "26.07-trtllm"),
        (
            lambda host: host.gpus("NVIDIA L40S, 46068, 8.9"),
            "has SM 89, the plan is for H100-80",
            "--gpu L40S-48",
        ),
        (lambda host: host.gpus("NVIDIA H100 MIG, 20000, 9.0"), "has 20000 MiB", "26.07-trtllm"),
    ],
)
def test_another_machine_than_the_recipes_is_refused_before_anything_is_fetched(
    gpu_build: Builds, prepare: Callable[[GpuHost], None], message: str, hint: str
) -> None:
    prepare(gpu_build.host)
    error = gpu_build.fails(UsageError, Path("Qwen/QwQ-32B"))
    assert message in error.message
    assert hint in error.hint
    assert error.exit_code == 2
    assert names_of(gpu_build.cache) == {"quantize", "report"}, "the build did not begin"


def test_what_cannot_work_is_said_before_anything_is_fetched(build: Builds) -> None:
    error = build.fails(DoesNotFit, Path("Qwen/QwQ-32B"), "trtllm.gpu=L4", "trtllm.max_seq_len=32768")
    assert error.exit_code == 3
    assert "would fit" in error.hint
    error = build.fails(RecipeError, Path("Qwen/QwQ-32B"), "trtllm.tp=3", "trtllm.gpus=3")
    assert "num_attention_heads 40" in error.message
    assert names_of(build.cache) == {"quantize", "report"}, "the build did not begin"


def test_container_without_docker_is_said_at_once(build: Builds, checkpoint: Path) -> None:
    build.host.gpus(H100)
    assert "docker is not here" in build.fails(UsageError, checkpoint, container=True).message


def test_a_builder_that_fails_shows_its_last_error_and_the_cause(
    gpu_build: Builds, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BUILDER", "fail")
    error = gpu_build.fails(StageFailed, checkpoint)
    assert error.exit_code == 4
    assert "INT8/INT4 quantization is not supported on SM>=100." in error.message
    assert "INT4 weights do not run on this GPU" in error.message
    log = Path(error.hint.rpartition(" ")[2])
    assert "Build TensorRT engine" in log.read_text()
    assert not gpu_build.out.exists()
    monkeypatch.delenv("FAKE_BUILDER")
    reused = gpu_build(checkpoint).reused
    assert [stage for stage, was in reused.items() if not was] == ["compile-native", "package"]


def test_a_container_that_fails_is_removed(
    build: Builds, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.host.gpus(H100)
    build.host.docker()
    monkeypatch.setenv("FAKE_BUILDER", "fail")
    build.fails(StageFailed, checkpoint, container=True)
    removed, run, again = build.host.docker_calls()
    assert removed[:2] == again[:2] == ["rm", "--force"]
    assert run[run.index("--name") + 1] == again[2] == removed[2]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_build_that_is_killed_while_it_compiles_takes_the_builder_with_it_and_goes_on(
    gpu_build: Builds, checkpoint: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    gpu_build.host.note_pid(tmp_path / "pid")
    command = [Path(sys.executable).with_name("build-engine"), checkpoint, "-o", gpu_build.out, "--json"]
    command += [part for text in (*SETTINGS, "target=trtllm") for part in ("--set", text)]
    environment = {**os.environ, "FAKE_BUILDER": "stall", "ENGINEWRIGHT_CACHE": str(gpu_build.cache)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            assert event["event"] != "result", event
            if (event["event"], event.get("stage")) == ("progress", "compile-native"):
                break
        builder = os.pidfd_open(int((tmp_path / "pid").read_text()))
        process.send_signal(signal_number)
        process.stdout.read()
        assert process.wait(30) == (-9 if signal_number == signal.SIGKILL else 143)
    assert select.select([builder], [], [], 30)[0], "the builder still runs"
    os.close(builder)
    assert not gpu_build.out.exists()
    reused = gpu_build(checkpoint).reused
    assert reused == {**dict.fromkeys(FP8, True), "compile-native": False, "package": False}
    assert list((gpu_build.cache / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("tampered", "found"),
    [
        (
            ("compile-native", "request", "inputs", "checkpoint"),
            "compile-native was not made",
        ),
        (("checkpoint", "request", "inputs", "original"), "checkpoint was not made"),
        (("package", "request", "inputs", "verified"), "package does not follow from this verify"),
    ],
)
def test_a_link_that_was_exchanged_is_found(
    gpu_build: Builds, checkpoint: Path, tampered: tuple[str, ...], found: str
) -> None:
    gpu_build(checkpoint)
    manifest = gpu_build.manifest
    stage, *path, last = tampered
    section = manifest["chain"][stage]
    for name in path:
        section = section[name]
    section[last] = "0" * 64
    manifest["chain"][stage]["key"] = digest(manifest["chain"][stage]["request"])
    (gpu_build.out / "manifest.json").write_bytes(json_bytes(manifest))
    with pytest.raises(GateFailed, match=found):
        verify_repository(gpu_build.out)
