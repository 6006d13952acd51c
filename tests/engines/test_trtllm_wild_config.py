"""Whatever a checkpoint's JSON files hold, the TensorRT-LLM side opens it or says CheckpointError."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import CheckpointError, RecipeError
from enginewright_model import read_model_spec
from enginewright_trtllm.rope import Rope, rope_from_spec, trtllm_scaling
from enginewright_trtllm.unified import open_unified
from hypothesis import given, settings
from hypothesis import strategies as st
from trtllm_models import SMALL, write_unified
from wild_json import wild_configs, wild_values

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "dtype": "bfloat16",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "rope_parameters": None,
    "tie_word_embeddings": False,
}
MORE = ("layer_types", "hidden_act", "partial_rotary_factor", "use_sliding_window", "mlp_bias", "head_dim")
YARN = CONFIG["rope_scaling"]


def rope_of(config: dict[str, Any]) -> Rope:
    return rope_from_spec(read_model_spec(config))


@settings(max_examples=500, deadline=None)
@given(wild_configs(CONFIG, *MORE))
def test_any_value_in_a_config_is_read_or_refused(config: dict[str, Any]) -> None:
    with contextlib.suppress(CheckpointError):
        read_model_spec(config)
    with contextlib.suppress(CheckpointError):
        rope = rope_of(config)
        with contextlib.suppress(RecipeError):
            trtllm_scaling(rope, None, 40960)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["type", "rope_theta", "attention_factor", *YARN]), wild_values()))
def test_any_value_in_a_scaling_is_rendered_or_refused(wild: dict[str, Any]) -> None:
    with contextlib.suppress(CheckpointError, RecipeError):
        rope = rope_of(CONFIG | {"rope_scaling": {**YARN, **wild}})
        trtllm_scaling(rope, None, 40960)
    with contextlib.suppress(RecipeError):
        trtllm_scaling(rope_of(CONFIG), {**YARN, **wild}, 40960)


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wild") / "fp8"
    write_unified(folder, quantization="fp8", **SMALL)
    return folder


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_in_the_files_of_a_checkpoint_opens_it_or_is_refused(
    fp8: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = fp8.parent / "changed"
    if not folder.exists():
        shutil.copytree(fp8, folder)
    config, quant = (json.loads((fp8 / name).read_text()) for name in ("config.json", "hf_quant_config.json"))
    block = data.draw(wild_values() | wild_configs(quant["quantization"], "group_size"))
    (folder / "config.json").write_text(json.dumps(data.draw(st.just(config) | wild_configs(config, *MORE))))
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": block}))
    with contextlib.suppress(CheckpointError):
        open_unified(folder)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"rope_parameters": {**YARN, "factor": 2.0, "rope_theta": 1e6}},
            ["rope_parameters.factor is 2.0", "expected 4.0, as in rope_scaling"],
        ),
        (
            {"rope_parameters": {**YARN, "original_max_position_embeddings": 65536}},
            ["rope_parameters.original_max_position_embeddings is 65536", "expected 32768"],
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            ["original_max_position_embeddings is None"],
        ),
        ({"rope_scaling": {**YARN, "rope_theta": 1e4}}, ["rope_theta is [1000000.0, 10000.0]"]),
        ({"rope_scaling": {**YARN, "type": "linear"}}, ["rope_type is 'yarn'", "expected 'linear'"]),
        ({"rope_scaling": None, "rope_parameters": {"full_attention": YARN}}, ["rope_parameters"]),
        ({"rope_scaling": {**YARN, "partial_rotary_factor": 0.5}}, ["partial_rotary_factor is 0.5"]),
        ({"max_position_embeddings": True}, ["max_position_embeddings is True"]),
        ({"tie_word_embeddings": "false"}, ["tie_word_embeddings is 'false'"]),
        ({"layer_types": ["sliding_attention"] * 64}, ["sliding_window"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers is 1000000000"]),
    ],
)
def test_a_config_that_contradicts_itself_or_would_be_dropped_is_refused_by_name(
    changes: dict[str, Any], names: list[str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model_spec(CONFIG | changes)
    assert all(name in caught.value.message for name in names), caught.value.message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"type": "linear"}, "type = 'linear', but rope_type = 'yarn'"),
        ({"factor": 0.5}, "factor = 0.5"),
        ({"factor": 1e300}, r"factor = 1e\+300"),
        ({"original_max_position_embeddings": 32768.7}, "original_max_position_embeddings = 32768.7"),
    ],
)
def test_a_scaling_that_is_a_slip_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        trtllm_scaling(rope_of(CONFIG), {**YARN, **changes}, 40960)
