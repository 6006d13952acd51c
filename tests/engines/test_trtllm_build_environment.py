"""What builds engines, and what was built: found, refused with a reason, and looked over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import StageFailed, UsageError
from enginewright_trtllm.build_environment import BuildEnvironment, check_build_environment, engine_record
from enginewright_trtllm.check_engine import engine_problem
from enginewright_trtllm.check_environment import check_environment
from enginewright_trtllm.engine_makers import Container, LocalBuilder
from enginewright_trtllm.find_builder import find_builder
from enginewright_trtllm.run_builder import run_builder
from gpu_host import H100, GpuHost
from trtllm_targets import FP8, NATIVE

H100_CARD = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81_559, "sm": 90}
RIGHT = BuildEnvironment("1.2.1", "10.14.1.48", (H100_CARD,))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    made = GpuHost(tmp_path / "host")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


def test_a_builder_is_found_with_what_its_engines_are_bound_to(host: GpuHost) -> None:
    assert find_builder(FP8, container=False) == "no trtllm-build is on PATH"
    host.builder()
    assert "no GPU that nvidia-smi lists" in str(find_builder(FP8, container=False))
    host.gpus(H100)
    assert find_builder(FP8, container=False) == LocalBuilder(RIGHT)
    host.docker()
    assert find_builder(FP8, container=True) == Container(RIGHT)


def test_a_builder_whose_version_nobody_knows_is_refused(host: GpuHost) -> None:
    host.gpus(H100)
    host.builder()
    for metadata in host.site.glob("*/METADATA"):
        metadata.unlink()
        metadata.parent.rmdir()
    with pytest.raises(UsageError, match="of unknown version") as caught:
        find_builder(FP8, container=False)
    assert "26.07-trtllm-python-py3" in caught.value.hint


def test_every_rank_needs_the_planned_card() -> None:
    two = replace(FP8, tp=2, gpu_count=2)
    check_build_environment(two, replace(RIGHT, gpus=(H100_CARD, H100_CARD)))
    other = {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81_920, "sm": 80}
    check_build_environment(FP8, replace(RIGHT, gpus=(H100_CARD, other)))
    with pytest.raises(UsageError, match="GPU 1 ") as caught:
        check_build_environment(two, replace(RIGHT, gpus=(H100_CARD, other)))
    assert "--gpu A100-80" in caught.value.hint


def test_the_record_is_what_the_server_compares() -> None:
    record = engine_record(FP8, RIGHT)
    here = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "gpus": [H100_CARD]}
    assert check_environment(record, here) == ()
    assert [item.code for item in check_environment(record, {**here, "tensorrt": "10.15"})] == [
        "environment-tensorrt"
    ]


def checkpoint_config() -> dict[str, Any]:
    return {
        "architecture": "Qwen2ForCausalLM",
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "hidden_size": 5120,
        "vocab_size": 152_064,
        "max_position_embeddings": 32_768,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None},
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda engine: None, None),
        (lambda engine: engine.update(version="1.2.0"), "TensorRT-LLM 1.2.0, not 1.2.1"),
        (lambda engine: engine["build_config"].update(max_seq_len=4096), "max_seq_len is 4096, not 32768"),
        (lambda engine: engine["pretrained_config"]["mapping"].update(tp_size=2), "tp_size is 2, not 1"),
        (lambda engine: engine.pop("build_config"), "config.json is not an engine's"),
    ],
)
def test_an_engine_of_something_else_is_noticed(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], problem: str | None
) -> None:
    engine, checkpoint = tmp_path / "engine", tmp_path / "checkpoint"
    engine.mkdir()
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(checkpoint_config()))
    sizes = {"max_batch_size": 16, "max_num_tokens": 8192, "max_seq_len": 32_768}
    config = {"version": "1.2.1", "pretrained_config": checkpoint_config(), "build_config": sizes}
    change(config)
    (engine / "config.json").write_text(json.dumps(config))
    (engine / "rank0.engine").write_bytes(b"engine")
    found = engine_problem(engine, checkpoint, FP8, NATIVE)
    assert found == problem if problem is None else problem in str(found)
    (engine / "rank0.engine").write_bytes(b"")
    assert engine_problem(engine, checkpoint, FP8, NATIVE) is not None


def test_a_builder_that_cannot_be_started_or_prints_nothing_is_an_error_of_ours(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"world_size": 1, "progress": lambda _: None}
    with pytest.raises(UsageError, match="cannot be started"):
        run_builder([str(tmp_path / "none")], tmp_path / "log", **arguments)
    with pytest.raises(StageFailed, match="exit code 3: it printed nothing") as caught:
        run_builder(["sh", "-c", "exit 3"], tmp_path / "log", **arguments)
    assert str(tmp_path / "log") in caught.value.hint
    with pytest.raises(StageFailed, match="exit code -9"):
        run_builder(["sh", "-c", r"printf '\377\n'; kill -9 $$"], tmp_path / "log", **arguments)
