"""Which config.json the ONNX engine accepts, and what it says about the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_onnx.model_spec import read_model_spec

QWQ: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "max_position_embeddings": 40960,
    "max_window_layers": 64,
    "model_type": "qwen2",
    "num_attention_heads": 40,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LLAMA = {**QWQ, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def write(folder: Path, config: object, generation: object = None) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_qwq_as_shipped_is_read(tmp_path: Path) -> None:
    spec = read_model_spec(write(tmp_path, QWQ, {"eos_token_id": [151645, 151643], "pad_token_id": 151643}))
    assert (spec.head_dim, spec.query_size, spec.kv_size, spec.qkv_bias) == (128, 5120, 1024, True)
    assert spec.eos_token_ids == (151645, 151643)
    assert (spec.pad_token_id, spec.bos_token_id) == (151643, 151643)
    assert spec.kv_bytes_per_token == 2 * 64 * 8 * 128 * 4


def test_token_ids_come_from_config_when_there_is_no_generation_config(tmp_path: Path) -> None:
    assert read_model_spec(write(tmp_path, QWQ)).eos_token_ids == (151645,)


def test_a_head_dim_beside_hidden_size_is_taken(tmp_path: Path) -> None:
    spec = read_model_spec(write(tmp_path, {**LLAMA, "head_dim": 64}))
    assert (spec.query_size, spec.qkv_bias) == (40 * 64, False)


def test_a_llama_without_key_value_heads_has_one_for_each_head(tmp_path: Path) -> None:
    assert read_model_spec(write(tmp_path, {**LLAMA, "num_key_value_heads": None})).num_kv_heads == 40


def test_a_sliding_window_that_no_layer_uses_is_no_reason_to_refuse(tmp_path: Path) -> None:
    read_model_spec(write(tmp_path, {**QWQ, "use_sliding_window": True, "max_window_layers": 64}))


def test_tiny_checkpoints_of_transformers_are_read(tiny: Callable[..., Path]) -> None:
    assert read_model_spec(tiny(arch="qwen2", tied=True)).tie_word_embeddings
    assert read_model_spec(tiny(arch="llama", tied=False)).architecture == "llama"


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({**QWQ, "model_type": "mixtral"}, "unsupported-architecture", "mixtral"),
        (
            {**QWQ, "architectures": ["Qwen2ForSequenceClassification"]},
            "unsupported-architecture",
            "Classification",
        ),
        ({**QWQ, "model_type": ["qwen2"]}, "unsupported-architecture", "model_type"),
        (
            {**QWQ, "use_sliding_window": True, "max_window_layers": 32},
            "unsupported-model",
            "use_sliding_window",
        ),
        ({**QWQ, "layer_types": ["full_attention", "sliding_attention"]}, "unsupported-model", "layer_types"),
        ({**QWQ, "hidden_act": "gelu"}, "unsupported-model", "hidden_act"),
        ({**LLAMA, "attention_bias": True}, "unsupported-model", "attention_bias"),
        ({**LLAMA, "mlp_bias": True}, "unsupported-model", "mlp_bias"),
        ({**QWQ, "hidden_size": None}, "malformed-config", "hidden_size"),
        ({**QWQ, "num_hidden_layers": 0}, "malformed-config", "num_hidden_layers"),
        ({**QWQ, "num_hidden_layers": "64"}, "malformed-config", "num_hidden_layers"),
        ({**QWQ, "vocab_size": 1.5}, "malformed-config", "vocab_size"),
        ({**QWQ, "num_key_value_heads": 7}, "malformed-config", "num_key_value_heads"),
        ({**QWQ, "hidden_size": 5121}, "malformed-config", "hidden_size"),
        ({**QWQ, "head_dim": 72}, "malformed-config", "head_dim"),
        ({**QWQ, "rms_norm_eps": 0.0}, "malformed-config", "rms_norm_eps"),
        ({**QWQ, "tie_word_embeddings": "no"}, "malformed-config", "tie_word_embeddings"),
        ({**QWQ, "eos_token_id": [1, None]}, "malformed-config", "eos_token_id"),
        ({**QWQ, "rope_theta": None}, "missing-rope-theta", "rope_theta"),
        ("{", "malformed-config", "config.json"),
        ("[]", "malformed-config", "config.json"),
    ],
)
def test_what_the_graph_cannot_express_is_refused_by_name(
    tmp_path: Path, config: object, code: str, named: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model_spec(write(tmp_path, config))
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.hint


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model_spec(tmp_path)
