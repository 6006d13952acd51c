"""The packaged repository around TensorRT-LLM's engines: whole, parsed by Triton's schema, without a flaw
that the preflight knows, and without the ONNX engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enginewright.stages.package_trtllm import package_trtllm
from enginewright_errors import CheckpointError
from enginewright_front.front_config import EngineModel, read_front_config
from enginewright_trtllm.check_repository import check_repository
from enginewright_trtllm.target import TrtllmTarget
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from trtllm_targets import LONG, NATIVE, QWQ, TARGETS

BOTH = TARGETS["qwq-32b-int4-awq-yarn"]


@pytest.fixture
def checkpoint(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint whose files a test may change."""
    return shutil.copytree(tiny(arch="qwen2"), tmp_path / "checkpoint")


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Path]:
    """What trtllm-build leaves, by variant; the engines' bytes do not matter here."""
    folders: dict[str, Path] = {}
    for variant in (NATIVE, LONG):
        folder = folders[variant.name] = tmp_path / variant.name
        folder.mkdir()
        config = {"pretrained_config": {"mapping": {"world_size": 1}, "logits_dtype": "float16"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "rank0.engine").write_bytes(variant.name.encode())
    return folders


def packaged(
    checkpoint: Path, engines: dict[str, Path], out: Path, target: TrtllmTarget = BOTH
) -> dict[str, Any]:
    """Every model's config, as Triton reads it."""
    package_trtllm(engines, checkpoint, out, target=target, dims=QWQ, name="qwq", max_tokens_default=99)
    return {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in out.glob("*/config.pbtxt")
    }


def test_both_engines_stand_behind_one_front(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    configs = packaged(checkpoint, engines, tmp_path / "out")
    front = {"llm", "llm_unary", "ensemble", "tensorrt_llm_bls", "vllm_model"}
    assert set(configs) == {*front, "tensorrt_llm", "tensorrt_llm_long"}
    assert all(config.name == name for name, config in configs.items())
    assert check_repository(tmp_path / "out") == ()
    assert not any("${" in path.read_text() for path in (tmp_path / "out").glob("*/config.pbtxt"))
    shown = {key: value.string_value for key, value in configs["ensemble"].parameters.items()}
    assert (shown["engine"], shown["max_seq_len"], shown["quantization"]) == (
        "tensorrt_llm",
        "131072",
        "int4_awq",
    )


def test_engine_files_are_shared_not_copied(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    packaged(checkpoint, engines, tmp_path / "out")
    for model, variant in (("tensorrt_llm", "native"), ("tensorrt_llm_long", "long")):
        linked = tmp_path / "out" / model / "1" / "engine" / "rank0.engine"
        assert linked.samefile(engines[variant] / "rank0.engine")


def test_the_front_knows_its_models_and_the_checkpoints_tokens(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": [2, 0], "pad_token_id": null}')
    packaged(checkpoint, engines, tmp_path / "out")
    front = read_front_config(tmp_path / "out" / "llm" / "1" / "front.json")
    described = front.tensorrt_llm
    assert front.backend == "tensorrt_llm"
    assert described is not None
    assert described.models == (
        EngineModel("tensorrt_llm", 32_768, BOTH.max_batch_size),
        EngineModel("tensorrt_llm_long", 131_072, BOTH.max_batch_size),
    )
    assert described.end_ids == (2, 0)
    assert described.vocab_size == json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    assert front.limits.max_queue == BOTH.max_queue_size
    assert front.limits.max_tokens_default == 99
    assert front.limits.stall_seconds > 131_072 / 1000, "a prompt at the limit is prefilled in silence"


def test_a_single_variant_is_the_model_that_upstreams_clients_know(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    configs = packaged(checkpoint, engines, tmp_path / "out", replace(BOTH, variants=(LONG,)))
    assert "tensorrt_llm" in configs
    assert "tensorrt_llm_long" not in configs


def test_the_repository_carries_no_onnx_engine(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    packaged(checkpoint, engines, tmp_path / "out")
    version = tmp_path / "out" / "llm" / "1"
    assert {path.name for path in version.iterdir()} == {
        "model.py",
        "front.json",
        "checkpoint",
        "enginewright_front",
        "enginewright_errors",
    }


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("generation_config.json", {"do_sample": True, "min_p": 0.05}, "min_p is 0.05"),
        ("generation_config.json", {"eos_token_id": "2"}, "eos_token_id is '2'"),
        ("config.json", {"vocab_size": None}, "vocab_size is None"),
    ],
)
def test_a_checkpoint_that_the_engine_cannot_serve_is_named(
    checkpoint: Path,
    engines: dict[str, Path],
    tmp_path: Path,
    file: str,
    change: dict[str, Any],
    named: str,
) -> None:
    path = checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=named):
        packaged(checkpoint, engines, tmp_path / "out")


def test_a_checkpoint_without_end_tokens_is_refused(
    checkpoint: Path, engines: dict[str, Path], tmp_path: Path
) -> None:
    (checkpoint / "generation_config.json").write_text("{}")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    with pytest.raises(CheckpointError, match="names no eos_token_id"):
        packaged(checkpoint, engines, tmp_path / "out")
