"""Whatever a checkpoint's JSON files hold, the ONNX engine reads it or says CheckpointError."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright_errors import CheckpointError
from enginewright_model import read_token_ids
from enginewright_model.rope_spec import read_rope_spec
from enginewright_onnx.read_model import read_model
from enginewright_onnx.rope import inverse_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st
from wild_json import wild_configs, wild_values

QWQ: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 40960,
    "max_window_layers": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
LLAMA = {**QWQ, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MORE = ("layer_types", "head_dim", "rope_parameters", "attention_bias", "pad_token_id", "hidden_act")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wild")


@settings(max_examples=400, deadline=None)
@given(
    config=wild_configs(QWQ, *MORE) | wild_configs(LLAMA, *MORE), generation=wild_configs({"eos_token_id": 1})
)
def test_any_value_in_the_files_of_a_checkpoint_is_read_or_refused(
    folder: Path, config: dict[str, Any], generation: dict[str, Any]
) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    with contextlib.suppress(CheckpointError):
        read_model(folder)
    with contextlib.suppress(CheckpointError):
        read_token_ids(folder)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([YARN, LLAMA3]).flatmap(lambda rope: wild_configs(rope, "beta_fast", "type")),
    wild_values(),
)
def test_any_rope_that_is_accepted_has_finite_frequencies(rope: dict[str, Any], theta: Any) -> None:
    for config in ({"rope_theta": 1e6, "rope_scaling": rope}, {"rope_theta": theta, "rope_parameters": rope}):
        with contextlib.suppress(CheckpointError):
            frequencies, factor = inverse_frequencies(read_rope_spec(config), 128)
            assert np.isfinite(frequencies).all() and np.isfinite(factor)


@pytest.mark.parametrize(
    "rope",
    [
        {**YARN, "type": "linear"},
        {**YARN, "original_max_position_embeddings": 32768.7},
        {**YARN, "factor": 10**400},
        {**LLAMA3, "low_freq_factor": 4.0},
        {**YARN, "rope_theta": "1e6"},
        {**YARN, "rope_theta": 1},
    ],
)
def test_a_rope_that_is_a_slip_is_refused(rope: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="rope"):
        read_rope_spec({"rope_scaling": rope, "rope_theta": rope.get("rope_theta", 1e6)})


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "\xff", '{"eos_token_id": [[1]]}', '{"eos_token_id": true}', "[]"]
)
def test_a_generation_config_that_cannot_be_read_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(json.dumps(QWQ))
    (folder / "generation_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError):
        read_token_ids(folder)
