"""Which config.json is read, and what is said about the others."""

from __future__ import annotations

from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_model import RopeSpec, read_model_spec

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
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LLAMA = {**QWQ, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def test_qwq_as_shipped_is_read() -> None:
    spec = read_model_spec(QWQ)
    assert (spec.head_dim, spec.query_size, spec.kv_size, spec.qkv_bias) == (128, 5120, 1024, True)
    assert (spec.rope, spec.dtype) == (RopeSpec("default", 1e6), "bfloat16")


def test_a_head_dim_beside_hidden_size_is_taken() -> None:
    spec = read_model_spec({**LLAMA, "head_dim": 64})
    assert (spec.query_size, spec.qkv_bias) == (40 * 64, False)


def test_a_llama_without_key_value_heads_has_one_for_each_head() -> None:
    assert read_model_spec({**LLAMA, "num_key_value_heads": None}).num_kv_heads == 40


def test_a_sliding_window_that_no_layer_uses_is_no_reason_to_refuse() -> None:
    read_model_spec({**QWQ, "use_sliding_window": True, "max_window_layers": 64})


def test_the_dtype_is_found_under_both_of_its_names() -> None:
    assert read_model_spec({**QWQ, "torch_dtype": None, "dtype": "float16"}).dtype == "float16"
    assert read_model_spec({**QWQ, "torch_dtype": None}).dtype is None


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({**QWQ, "model_type": "mixtral"}, "config-invalid", "mixtral"),
        (
            {**QWQ, "architectures": ["Qwen2ForSequenceClassification"]},
            "architecture-unsupported",
            "Classification",
        ),
        ({**QWQ, "model_type": ["qwen2"]}, "config-invalid", "model_type"),
        (
            {**QWQ, "use_sliding_window": True, "max_window_layers": 32},
            "sliding-window",
            "sliding_window",
        ),
        ({**QWQ, "layer_types": ["full_attention", "sliding_attention"]}, "sliding-window", "sliding_window"),
        ({**QWQ, "hidden_act": "gelu"}, "config-invalid", "hidden_act"),
        ({**LLAMA, "attention_bias": True}, "config-invalid", "attention_bias"),
        ({**LLAMA, "mlp_bias": True}, "config-invalid", "mlp_bias"),
        ({**QWQ, "hidden_size": None}, "config-invalid", "hidden_size"),
        ({**QWQ, "num_hidden_layers": 0}, "config-invalid", "num_hidden_layers"),
        ({**QWQ, "num_hidden_layers": "64"}, "config-invalid", "num_hidden_layers"),
        ({**QWQ, "vocab_size": 1.5}, "config-invalid", "vocab_size"),
        ({**QWQ, "num_key_value_heads": 7}, "config-invalid", "num_key_value_heads"),
        ({**QWQ, "hidden_size": 5121}, "config-invalid", "hidden_size"),
        ({**QWQ, "head_dim": 71}, "config-invalid", "head_dim"),
        ({**QWQ, "rms_norm_eps": 0.0}, "config-invalid", "rms_norm_eps"),
        ({**QWQ, "tie_word_embeddings": "no"}, "config-invalid", "tie_word_embeddings"),
        ({**QWQ, "torch_dtype": "int8"}, "config-invalid", "torch_dtype"),
        ({**QWQ, "rope_theta": None}, "rope-theta-missing", "rope_theta"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(
    config: dict[str, Any], code: str, named: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model_spec(config)
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.hint
