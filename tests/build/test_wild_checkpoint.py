"""Whatever a source checkpoint's JSON files hold, opening it works or is a CheckpointError."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright.checkpoint import open_checkpoint
from enginewright.expected_tensors import expected_tensors
from enginewright.weight_files import find_weight_files
from enginewright_errors import CheckpointError
from enginewright_model import read_model_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from wild_json import wild_configs, wild_values

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
MORE = ("rope_parameters", "layer_types", "head_dim", "sliding_window", "use_sliding_window", "auto_map")


@pytest.fixture(scope="module")
def folder(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny(), tmp_path_factory.mktemp("wild") / "checkpoint"))


@settings(max_examples=400, deadline=None)
@given(wild_configs(CONFIG, *MORE))
def test_any_value_in_a_config_is_read_or_refused(config: dict[str, Any]) -> None:
    with contextlib.suppress(CheckpointError):
        expected_tensors(read_model_spec(config))


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    ),
    data=st.data(),
)
def test_any_value_in_a_file_of_a_checkpoint_opens_it_or_is_refused(
    folder: Path, name: str, data: st.DataObject
) -> None:
    file = folder / name
    before = file.read_text() if file.exists() else "{}"
    fields = json.loads(before)
    wild = wild_configs(fields, "model", "added_tokens", "auto_map", "chat_template", "quantization_config")
    models = st.fixed_dictionaries({"model": st.fixed_dictionaries({"vocab": wild_values()})})
    file.write_text(json.dumps(data.draw(wild_values() | wild | models)))
    try:
        with contextlib.suppress(CheckpointError):
            _ = open_checkpoint(folder).has_chat_template
    finally:
        file.write_text(before)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), wild_values() | st.text().map(lambda name: name + ".safetensors"))
)
def test_any_index_is_followed_or_refused(tmp_path_factory: pytest.TempPathFactory, weight_map: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "wild-index"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError):
        find_weight_files(folder)


@pytest.mark.parametrize(
    "name", ["a" * 300 + ".safetensors", "\ud800.safetensors", "é" * 200 + ".safetensors"]
)
def test_a_shard_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError):
        find_weight_files(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            "rope_parameters.factor is 2.0, expected 4.0",
        ),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "rope_scaling.rope_type"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
            "original_max_position_embeddings is None",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128.5}},
            "original_max_position_embeddings is 128.5",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": "32"}}, "beta_fast is '32'"),
    ],
)
def test_a_rope_that_is_a_slip_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model_spec(CONFIG | changes)
    assert says in caught.value.message
