"""The config of a checkpoint promises the right context and holds every key whose absence changes the
model."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from enginewright_errors import CheckpointError, RecipeError, StageFailed, UsageError
from enginewright_trtllm import check_checkpoint, write_checkpoint, write_variant
from enginewright_trtllm.config import CONFIG_KEYS, QWEN_KEYS
from safetensors.torch import load_file, save_file
from trtllm_models import SMALL, SMALL_AWQ, write_unified

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
PLAIN = {"rope_type": "default"}


@pytest.fixture(scope="module")
def unified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unified")
    write_unified(folder, quantization="fp8kv", **SMALL)
    return folder


@pytest.fixture
def native(unified: Path, tmp_path: Path) -> Path:
    write_checkpoint(unified, tmp_path / "native", tp=2, max_position_embeddings=32768)
    return tmp_path / "native"


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


def change(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | changes))


def codes(folder: Path) -> list[str]:
    return [problem.code for problem in check_checkpoint(folder)]


def test_every_key_says_what_the_model_is(unified: Path, tmp_path: Path) -> None:
    write_checkpoint(unified, tmp_path / "out", tp=2, pp=2, max_position_embeddings=131072, rope_scaling=YARN)
    assert config_of(tmp_path / "out") == {
        "architecture": "Qwen2ForCausalLM",
        "dtype": "bfloat16",
        "logits_dtype": "float16",
        "num_hidden_layers": 4,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "hidden_size": 160,
        "intermediate_size": 288,
        "head_size": 4,
        "vocab_size": 320,
        "hidden_act": "silu",
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": 131072,
        "rotary_base": 1e6,
        "rotary_scaling": {**YARN, "type": "yarn"},
        "attn_bias": True,
        "mlp_bias": False,
        "use_parallel_embedding": True,
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": 4, "tp_size": 2, "pp_size": 2},
        "quantization": {
            "quant_algo": "FP8",
            "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head"],
        },
        "qwen_type": "qwen2",
        "seq_length": 8192,
    }


def test_a_written_checkpoint_has_no_problem(native: Path) -> None:
    assert check_checkpoint(native) == ()


@pytest.mark.parametrize("key", [*CONFIG_KEYS, *QWEN_KEYS])
def test_a_missing_key_is_named(native: Path, key: str) -> None:
    config = config_of(native)
    del config[key]
    (native / "config.json").write_text(json.dumps(config))
    problems = check_checkpoint(native)
    # Without an architecture it is not known that Qwen's own keys belong here.
    assert [problem.message for problem in problems] == [f"config.json: {key} is missing"]
    assert problems[0].hint.startswith("TensorRT-LLM ")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"position_embedding_type": "learned_absolute"},
        {"dtype": "bf16"},
        {"logits_dtype": "bfloat16"},
        {"architecture": "Foo"},
        {"rotary_base": "1e6"},
        {"norm_epsilon": 0},
        {"use_parallel_embedding": 1},
        {"max_position_embeddings": "131072"},
        {"attn_bias": False},
        {"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 2}},
        {"mapping": {"tp_size": 2}},
        {"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1, "foo": 1}},
        {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": []}},
        {
            "quantization": {
                "quant_algo": "FP8",
                "kv_cache_quant_algo": "FP8",
                "exclude_modules": ["lm_head"],
                "foo": 1,
            }
        },
        {"quantization": {"quant_algo": "INT4_AWQ", "kv_cache_quant_algo": None}},
        {"quantization": {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None, "group_size": 128}},
    ],
)
def test_a_value_that_was_refused_or_misread_upstream_is_a_problem(
    native: Path, changes: dict[str, Any]
) -> None:
    change(native, **changes)
    problems = check_checkpoint(native)
    assert {problem.code for problem in problems} == {"config-value"}
    assert all(next(iter(changes)) in problem.message for problem in problems)


def test_awq_without_pre_quant_scale_in_the_config_is_a_problem(tmp_path: Path) -> None:
    """Upstream loads it and drops every pre-quantization scale."""
    write_unified(tmp_path / "unified", quantization="int4_awq", **SMALL_AWQ)
    write_checkpoint(tmp_path / "unified", tmp_path / "out", max_position_embeddings=32768)
    quantization = config_of(tmp_path / "out")["quantization"]
    change(tmp_path / "out", quantization={**quantization, "pre_quant_scale": False})
    (problem,) = check_checkpoint(tmp_path / "out")
    assert "pre_quant_scale" in problem.message


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings"),
        ({"rope_type": "yarn", "original_max_position_embeddings": 32768}, "factor"),
        ({**YARN, "factor": "4.0"}, "factor"),
        ({**YARN, "factor": -1}, "factor"),
        ({**YARN, "rope_type": "YARN"}, "YARN"),
        ({**YARN, "rope_type": "dynamic"}, "dynamic"),
        ({**YARN, "mscale": 0.7}, "mscale"),
        ({**YARN, "attention_factor": 2.0}, "attention_factor"),
        ({"factor": 4.0}, "rope_type"),
        ({**YARN, "factor": math.inf}, "factor"),
        ({**YARN, "rope_theta": 1e4}, "rope_theta"),
        (YARN | {"factor": 2.0}, "1..65536"),
        (PLAIN, "1..40960"),
        (None, "1..40960"),
    ],
)
def test_a_scaling_that_upstream_would_misread_or_that_does_not_reach_is_refused(
    unified: Path, tmp_path: Path, scaling: dict[str, Any] | None, named: str
) -> None:
    with pytest.raises(RecipeError, match=named):
        write_checkpoint(unified, tmp_path / "out", max_position_embeddings=131072, rope_scaling=scaling)
    assert not (tmp_path / "out").exists()


def test_the_attention_factor_that_upstream_computes_may_be_given(unified: Path, tmp_path: Path) -> None:
    scaling = {**YARN, "attention_factor": 0.1 * math.log(4.0) + 1.0, "beta_fast": 32}
    write_checkpoint(unified, tmp_path / "out", max_position_embeddings=131072, rope_scaling=scaling)
    assert config_of(tmp_path / "out")["rotary_scaling"] == {**YARN, "type": "yarn", "beta_fast": 32.0}


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5, "rope_parameters": None, "rope_scaling": None},  # transformers 4
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},  # 5
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5}},  # both
    ],
)
def test_rotary_base_is_found_wherever_transformers_put_it(tmp_path: Path, config: dict[str, Any]) -> None:
    write_unified(tmp_path / "unified", **SMALL, **config)
    write_checkpoint(tmp_path / "unified", tmp_path / "out", max_position_embeddings=32768)
    assert config_of(tmp_path / "out")["rotary_base"] == 5e5


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"rope_theta": None, "rope_parameters": None}, "gives no rope_theta"),
        ({"rope_theta": "1e6", "rope_parameters": None}, "rope_theta is '1e6'"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": YARN},
            "expected 'yarn', as in rope_scaling",
        ),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
    ],
)
def test_a_checkpoint_that_does_not_know_its_rotary_embedding_is_refused(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    write_unified(tmp_path / "unified", **SMALL, **config)
    with pytest.raises(CheckpointError, match=named):
        write_checkpoint(tmp_path / "unified", tmp_path / "out", max_position_embeddings=32768)


def test_a_dtype_of_logits_that_upstream_does_not_have_is_refused(unified: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="logits_dtype"):
        write_checkpoint(
            unified,
            tmp_path / "out",
            max_position_embeddings=32768,
            logits_dtype="bfloat16",  # type: ignore[arg-type]
        )
    assert not (tmp_path / "out").exists()


def test_a_llama3_scaling_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    write_unified(
        tmp_path / "unified",
        family="llama",
        rope_parameters={**scaling, "rope_theta": 1e6},
        **SMALL,
    )
    write_checkpoint(tmp_path / "unified", tmp_path / "out", max_position_embeddings=32768)
    assert config_of(tmp_path / "out")["rotary_scaling"] == {**scaling, "type": "llama3"}


def test_a_variant_shares_its_weights_and_differs_in_two_keys(native: Path, tmp_path: Path) -> None:
    long = write_variant(native, tmp_path / "long", max_position_embeddings=131072, rope_scaling=YARN)
    assert check_checkpoint(long) == ()
    assert {key for key, value in config_of(long).items() if value != config_of(native)[key]} == {
        "max_position_embeddings",
        "rotary_scaling",
    }
    for name in ("rank0.safetensors", "rank1.safetensors"):
        assert (long / name).samefile(native / name)
        assert (long / name).stat().st_nlink == 2


def test_a_native_variant_of_a_long_checkpoint_is_the_native_one(unified: Path, tmp_path: Path) -> None:
    write_checkpoint(unified, tmp_path / "long", max_position_embeddings=131072, rope_scaling=YARN)
    short = write_variant(
        tmp_path / "long", tmp_path / "short", max_position_embeddings=32768, rope_scaling=PLAIN
    )
    write_checkpoint(unified, tmp_path / "native", max_position_embeddings=32768)
    assert config_of(short) == config_of(tmp_path / "native")
    with pytest.raises(RecipeError, match=r"1\.\.32768"):
        write_variant(
            tmp_path / "long", tmp_path / "beyond", max_position_embeddings=40960, rope_scaling=PLAIN
        )


def test_a_variant_of_a_damaged_checkpoint_is_refused(native: Path, tmp_path: Path) -> None:
    (native / "rank1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="rank1"):
        write_variant(native, tmp_path / "long", max_position_embeddings=131072, rope_scaling=YARN)
    assert not (tmp_path / "long").exists()


def test_a_variant_is_not_written_over_another(native: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        write_variant(native, native, max_position_embeddings=16384)


def test_a_variant_on_another_disk_is_refused_rather_than_copied(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across_devices(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across_devices)
    with pytest.raises(StageFailed, match="cannot share rank0"):
        write_variant(native, tmp_path / "long", max_position_embeddings=16384)


def rewrite(folder: Path, rank: int, **changes: torch.Tensor | None) -> None:
    """Replace or remove tensors of a rank file by the end of their names."""
    file = folder / f"rank{rank}.safetensors"
    tensors = load_file(file)
    for suffix, tensor in changes.items():
        name = next((name for name in tensors if name.endswith(suffix)), suffix)
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lm_head.weight": None}, "tensor-missing"),
        ({"layers.3.attention.qkv.bias": None}, "tensor-missing"),
        ({"foo": torch.zeros(1)}, "tensor-unexpected"),
        ({"layers.3.attention.qkv.bias": torch.zeros(112, dtype=torch.float16)}, "tensor-dtype"),
        ({"layers.3.attention.qkv.weight": torch.zeros(112, 160, dtype=torch.bfloat16)}, "tensor-dtype"),
        ({"layers.3.mlp.fc.weights_scaling_factor": torch.ones(1).bfloat16()}, "tensor-dtype"),
        ({"layers.3.attention.qkv.bias": torch.zeros(111, dtype=torch.bfloat16)}, "tensor-shape"),
        ({"layers.3.mlp.fc.weights_scaling_factor": torch.zeros(1)}, "scale-invalid"),
        ({"layers.3.attention.kv_cache_scaling_factor": torch.full((1,), 0.5)}, "scale-invalid"),
        ({"layers.3.mlp.fc.weights_scaling_factor": torch.full((1,), 7.0)}, "scale-differs"),
    ],
)
def test_a_tensor_that_upstream_would_take_for_another_is_a_problem(
    native: Path, changes: dict[str, torch.Tensor | None], code: str
) -> None:
    rewrite(native, 1, **changes)
    problems = check_checkpoint(native)
    assert [problem.code for problem in problems] == [code]
    assert problems[0].message.startswith("rank1.safetensors: ")
    assert next(iter(changes)) in problems[0].message


@pytest.mark.parametrize("damage", ["cut", "missing", "{", "[]"])
def test_a_damaged_folder_is_a_problem(native: Path, damage: str) -> None:
    file = native / "rank0.safetensors"
    if damage == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif damage == "missing":
        file.unlink()
    else:
        (native / "config.json").write_text(damage)
    assert codes(native) == ["config-missing" if damage in "{[]" else "safetensors-damaged"]
