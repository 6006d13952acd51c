"""A config.json that cannot be right is one clear error before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_edits import edit, refused
from enginewright.checkpoint import open_checkpoint
from enginewright_model import RopeSpec


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 50_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "json-invalid", "config.json")


def test_a_config_that_is_not_text_or_enormous(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refused(folder, "json-invalid", "config.json")
    (folder / "config.json").write_text('{"a": "' + "x" * (4 << 20) + '"}')
    refused(folder, "json-invalid", "more than")


@pytest.mark.parametrize(
    "architectures",
    [None, [], "Qwen2ForCausalLM", ["MistralForCausalLM"], ["A", "B"], [["Qwen2ForCausalLM"]], 7],
)
def test_an_unknown_architecture_lists_the_known_ones(folder: Path, architectures: Any) -> None:
    edit(folder / "config.json", architectures=architectures)
    error = refused(folder, "architecture-unsupported", "architectures")
    assert "LlamaForCausalLM, Qwen2ForCausalLM" in error.hint


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": "256"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": -256}, "hidden_size"),
        ({"hidden_size": 1 << 40}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 254, "head_dim": None}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 2.0}, "num_attention_heads"),
        ({"head_dim": 63}, "head_dim"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"model_type": "llama"}, "model_type"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rope_theta": 10_000.0}, "rope_theta"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2}}, "rope_type"),
        ({"rope_scaling": {"type": "yarn"}, "rope_parameters": None}, "factor"),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}, "rope_parameters": None}, "factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_a_config_field_that_cannot_be_right_is_named(
    folder: Path, changes: dict[str, Any], field: str
) -> None:
    edit(folder / "config.json", **changes)
    refused(folder, "config-invalid", "config.json", field)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 400])
def test_a_config_number_beyond_numbers(folder: Path, value: str) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"rope_theta": 1000000.0', f'"rope_theta": {value}'))
    refused(folder, "config-invalid", "rope_theta")


def test_the_rope_of_transformers_4_and_5_is_read_alike(folder: Path) -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 128}
    edit(folder / "config.json", rope_parameters=None, rope_scaling={"type": "yarn", **yarn})
    old = open_checkpoint(folder).spec.rope
    edit(
        folder / "config.json",
        rope_scaling=None,
        rope_theta=None,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1_000_000.0, **yarn},
    )
    assert open_checkpoint(folder).spec.rope == old == RopeSpec("yarn", 1e6, **yarn)


def test_sliding_window_in_use_is_refused_and_out_of_use_is_not(folder: Path) -> None:
    config = folder / "config.json"
    edit(config, layer_types=None, use_sliding_window=True, sliding_window=64, max_window_layers=1)
    refused(folder, "sliding-window", "sliding_window = 64")
    edit(config, max_window_layers=2)  # the first two layers attend to everything, and there are two
    open_checkpoint(folder)
    edit(config, max_window_layers=1, use_sliding_window=False)
    open_checkpoint(folder)
    edit(config, layer_types=["full_attention", "sliding_attention"])
    refused(folder, "sliding-window")
