"""The commands on TensorRT-LLM recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpu_host import H100
from trtllm_builds import Builds, run, settings


def test_the_command_builds_hands_off_and_goes_on(build: Builds, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "carried"
    built = run(build, "build", checkpoint, "--gpu", "H100", "-o", out, *settings())
    assert built.returncode == 0, built.stderr
    first, *steps = built.stdout.splitlines()[-4:]
    assert first.startswith(f"built: {out} (manifest ")
    assert steps[0] == "no engine was built: no trtllm-build is on PATH"
    assert run(build, "verify", out).returncode == 0
    alone = run(build, "build", out)
    assert alone.returncode == 2
    assert "cannot be built here" in alone.stderr
    build.host.gpus(H100)
    build.host.builder()
    went_on = run(build, "build", out, "--max-batch-size", "2", "-o", tmp_path / "repository", "--json")
    assert went_on.returncode == 0, went_on.stderr
    result = json.loads(went_on.stdout.splitlines()[-1])
    assert result["next_steps"] == []
    verified = run(build, "verify", tmp_path / "repository")
    assert verified.stdout.startswith("verified: tiny, ")


def test_plan_needs_no_gpu_no_weights_and_no_network(build: Builds) -> None:
    planned = run(build, "build", "Qwen/QwQ-32B", "--gpu", "H100", "--tp-size", "2", "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "2 x H100-80, tp 2" in planned.stdout
    assert "this machine" in planned.stdout
    small = run(build, "plan", "Qwen/QwQ-32B", "--gpu", "L4")
    assert small.returncode == 3
    assert small.stdout.index("preflight: 1 findings") > 0
    assert "hint: What would fit: trtllm.tp: 4 on 4 x L4-24" in small.stderr


def test_every_finding_is_shown_before_the_exit_code_says_that_it_does_not_fit(build: Builds) -> None:
    flags = ("--gpu", "L4", "--set", "trtllm.max_num_tokens=100", "--set", "trtllm.kv_cache=fp8")
    planned = run(build, "build", "Qwen/QwQ-32B", *flags)
    assert planned.returncode == 3
    for code in ("weights", "chunk-blocks", "fp8-kv-bias"):
        assert f"[{code}]" in planned.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smollm2-135m-fp8", "--container"), "--container: an ONNX engine is compiled here"),
        (("smollm2-135m-fp8", "--gpu", "H100"), "--gpu H100: an ONNX engine runs in one process"),
        (("qwq-32b-fp8-h100", "--set", "engine.threads=4"), "engine is a section of target onnx"),
    ],
)
def test_what_is_for_the_other_target_is_said(
    build: Builds, arguments: tuple[str, ...], message: str
) -> None:
    refused = run(build, "build", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
