"""A checkpoint's config.json against what TensorRT-LLM reads and what the target promises."""

from __future__ import annotations

from typing import Any

import pytest
from engines.trtllm_configs import config_of
from enginewright_trtllm.check_checkpoint_config import check_checkpoint_config
from enginewright_trtllm.config import CONFIG_KEYS, QWEN_KEYS
from trtllm_targets import FP8, NATIVE, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_config_that_is_written_for_a_target_has_no_findings(name: str) -> None:
    target = TARGETS[name]
    for variant in target.variants:
        assert check_checkpoint_config(config_of(target, variant), target, variant) == ()


@pytest.mark.parametrize("key", [*CONFIG_KEYS, *QWEN_KEYS])
def test_a_missing_key_is_found_and_said_where_it_hurts(key: str) -> None:
    config = config_of(FP8, NATIVE)
    del config[key]
    findings = check_checkpoint_config(config, FP8, NATIVE)
    assert any(finding.code == "config-key-missing" and key in finding.message for finding in findings)
    silent = "rotary_base", "rotary_scaling", "hidden_act", "norm_epsilon", "position_embedding_type"
    if key in silent:
        assert findings[0].at == "run"
    if key in ("qwen_type", "seq_length", "architecture", "max_position_embeddings"):
        assert findings[0].at == "build"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_position_embeddings": 16_384}, "checkpoint-positions"),
        ({"logits_dtype": "float32"}, "checkpoint-logits"),
        ({"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}}, "checkpoint-mapping"),
        (
            {
                "rotary_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32_768,
                }
            },
            "checkpoint-scaling",
        ),
        ({"quantization": {"quant_algo": None, "kv_cache_quant_algo": None}}, "checkpoint-quantization"),
        ({"qwen_type": "qwen1"}, "config-value"),
    ],
)
def test_a_sound_config_that_is_not_what_was_promised_is_found(changes: dict[str, Any], code: str) -> None:
    findings = check_checkpoint_config(config_of(FP8, NATIVE) | changes, FP8, NATIVE)
    assert {finding.code for finding in findings} == {code}
