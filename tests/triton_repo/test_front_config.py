"""`front.json`, and what is read into it from a checkpoint: sampling defaults and reasoning markers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_front.front_config import (
    EngineModel,
    FrontConfig,
    FrontLimits,
    Reasoning,
    SamplingDefaults,
    TensorrtLlm,
    read_front_config,
    write_front_config,
)
from enginewright_front.generation_defaults import generation_defaults
from enginewright_front.reasoning import detect_reasoning
from tokenizers import Tokenizer


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    config = FrontConfig(
        "qwq",
        limits=FrontLimits(max_queue=3),
        reasoning=Reasoning("<think>", "</think>", opened_by_template=True),
    )
    write_front_config(config, tmp_path / "front.json")
    assert read_front_config(tmp_path / "front.json") == config


MODELS = {
    "models": [{"name": "m", "max_seq_len": 9, "slots": 1}],
    "vocab_size": 9,
    "end_ids": [1],
    "pad_id": 0,
}


def test_models_behind_the_front_are_read_again_the_shortest_first(tmp_path: Path) -> None:
    models = (EngineModel("long", 131_072, 4), EngineModel("native", 32_768, 4))
    described = TensorrtLlm(models, vocab_size=9, end_ids=(1, 2), pad_id=0)
    write_front_config(FrontConfig("qwq", "tensorrt_llm", tensorrt_llm=described), tmp_path / "front.json")
    read = read_front_config(tmp_path / "front.json").tensorrt_llm
    assert read == TensorrtLlm(models[::-1], vocab_size=9, end_ids=(1, 2), pad_id=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format 1"),
        ({"wibble": 1}, "unknown field wibble"),
        ({"limits": {"max_queu": 1}}, "unknown field limits.max_queu"),
        ({"limits": {"max_queue": "many"}}, "limits.max_queue is 'many'"),
        ({"limits": {"max_queue": True}}, "limits.max_queue is True"),
        ({"limits": []}, "limits is not an object"),
        ({"reasoning": {"open": "<think>"}}, "lacks a field"),
        ({"backend": "tensorrt_llm"}, "lacks tensorrt_llm"),
        ({"tensorrt_llm": {**MODELS, "models": []}}, "tensorrt_llm.models is not a list of models"),
        ({"tensorrt_llm": {**MODELS, "end_ids": [1.5]}}, "tensorrt_llm.end_ids is not a list of token ids"),
        ({"tensorrt_llm": {**MODELS, "models": [{"name": 1}]}}, "tensorrt_llm.models.name is 1"),
        ({"tensorrt_llm": {**MODELS, "models": [{"name": "m"}]}}, "lacks a field"),
        ({"tensorrt_llm": {**MODELS, "wibble": 1}}, "unknown field tensorrt_llm.wibble"),
    ],
)
def test_a_wrong_front_json_is_named_by_field(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "front.json"
    write_front_config(FrontConfig("m"), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"front\.json") as caught:
        read_front_config(path)
    assert named in caught.value.message


def test_a_missing_front_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"front\.json"):
        read_front_config(tmp_path / "front.json")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, SamplingDefaults(greedy=True)),
        ({"do_sample": False, "temperature": 0.7}, SamplingDefaults(greedy=True, temperature=0.7)),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 40, "top_p": 0.95, "eos_token_id": [1]},
            SamplingDefaults(greedy=False, temperature=0.6, top_k=40, top_p=0.95),
        ),
        ({"do_sample": True, "temperature": 0.0}, SamplingDefaults(greedy=True, temperature=1.0)),
        ({"do_sample": True, "top_k": None}, SamplingDefaults(greedy=False)),
    ],
)
def test_defaults_mean_what_transformers_means(
    tmp_path: Path, data: dict[str, Any], expected: SamplingDefaults
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(data))
    assert generation_defaults(tmp_path) == expected


def test_a_checkpoint_without_generation_config_is_greedy(tmp_path: Path) -> None:
    assert generation_defaults(tmp_path).greedy


@pytest.mark.parametrize(
    "data", [{"temperature": -1}, {"top_p": 0}, {"top_k": 1.5}, {"repetition_penalty": "1"}, {"min_p": True}]
)
def test_a_default_out_of_bounds_is_named(tmp_path: Path, data: dict[str, Any]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=next(iter(data))):
        generation_defaults(tmp_path)


@pytest.mark.parametrize(
    ("template", "markers", "expected"),
    [
        (
            "{{ messages[0].content }}<|im_start|>assistant\n<think>\n",
            True,
            Reasoning("<think>", "</think>", True),
        ),
        ("{{ messages[0].content }}<|im_start|>assistant\n", True, Reasoning("<think>", "</think>", False)),
        (
            "{{ messages[0].content }}<|im_start|>assistant\n<think>\n",
            False,
            Reasoning("<think>", "</think>", True),
        ),
        ("{{ messages[0].content }}<|im_start|>assistant\n", False, None),
        ("{{ raise_exception('system first') }}", False, None),
    ],
)
def test_reasoning_markers_come_from_tokenizer_and_template(
    checkpoint: Path, tmp_path: Path, template: str, markers: bool, expected: Reasoning | None
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(template)
    if not markers:
        data = json.loads((folder / "tokenizer.json").read_text())
        data["added_tokens"] = [token for token in data["added_tokens"] if token["special"]]
        (folder / "tokenizer.json").write_text(json.dumps(data))
        assert Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<think>") is None
    assert detect_reasoning(folder) == expected


def test_markers_that_no_text_shows_are_none(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["special"] = True
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert detect_reasoning(folder) is None
