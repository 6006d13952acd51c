"""Compares a checkpoint's config.json with what TensorRT-LLM reads and with what the target promises.

`check_config` knows every key by itself; here come the contradictions between a sound config and a target,
which nobody upstream would notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginewright_trtllm.check_config import Problem, check_config
from enginewright_trtllm.config import quantization_block
from enginewright_trtllm.finding import Finding, error
from enginewright_trtllm.quantization import quantization_of
from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = ["check_checkpoint_config"]


def check_checkpoint_config(
    config: Mapping[str, Any], target: TrtllmTarget, variant: Variant
) -> tuple[Finding, ...]:
    """Findings about the config.json of one variant's TensorRT-LLM checkpoint, empty when it is right."""
    problems = check_config(config)
    if problems:
        return tuple(map(_finding, problems))
    return (
        *_mapping(config, target),
        *_quantization(config, target),
        *_positions(config, variant),
        *_logits(config, target),
    )


def _finding(problem: Problem) -> Finding:
    refused = "refuses" in problem.hint or "fails" in problem.hint
    silent = problem.code == "config-key-missing" and not refused
    return error(
        problem.code,
        "run" if silent else "build",
        problem.message,
        problem.hint.rstrip("."),
        "Write the checkpoint again with enginewright, which writes every key.",
    )


def _mapping(config: Mapping[str, Any], target: TrtllmTarget) -> Iterator[Finding]:
    mapping = config["mapping"]
    if (mapping["tp_size"], mapping["pp_size"]) != (target.tp, target.pp):
        yield error(
            "checkpoint-mapping",
            "load",
            f"config.json: mapping tp {mapping['tp_size']} x pp {mapping['pp_size']},"
            f" the target says {target.tp} x {target.pp}",
            "the engine gets as many ranks as the checkpoint, the server another number of processes",
            "Write the checkpoint for the target's tp and pp.",
        )


def _quantization(config: Mapping[str, Any], target: TrtllmTarget) -> Iterator[Finding]:
    wanted = quantization_of(target.format, fp8_kv=target.fp8_kv, group_size=target.group_size)
    expected = quantization_block(wanted)
    keys = ("quant_algo", "kv_cache_quant_algo", "group_size")
    for key in keys:
        found = config["quantization"].get(key)
        if key in expected and found != expected[key]:
            yield error(
                "checkpoint-quantization",
                "run",
                f"config.json: quantization.{key} = {found!r}, the target says {expected[key]!r}",
                "the plan, the build flags and the memory were made for another format",
                "Write the checkpoint for the target's format, or change the target.",
            )


def _positions(config: Mapping[str, Any], variant: Variant) -> Iterator[Finding]:
    rows = config["max_position_embeddings"]
    if rows < variant.max_seq_len:
        yield error(
            "checkpoint-positions",
            "run",
            f"config.json: max_position_embeddings {rows} below max_seq_len {variant.max_seq_len}",
            "it is the number of rows of the rotary table, whatever the scaling; QwQ-32B ships 40960",
            f"Write the {variant.name} variant with max_position_embeddings {variant.max_seq_len}.",
        )
    scaling = config["rotary_scaling"] or {}
    found = None
    if scaling.get("type", scaling.get("rope_type")) == "yarn":
        found = (scaling["factor"], scaling["original_max_position_embeddings"])
    yarn = variant.yarn
    wanted = None if yarn is None else (yarn.factor, yarn.original_max_position_embeddings)
    if found != wanted:
        yield error(
            "checkpoint-scaling",
            "run",
            f"config.json: rotary_scaling {scaling or None} in the {variant.name} variant, which wants"
            f" {'none' if yarn is None else yarn}",
            "positions are scaled other than promised, without a word",
            "Write the variant with the recipe's scaling.",
        )


def _logits(config: Mapping[str, Any], target: TrtllmTarget) -> Iterator[Finding]:
    if config["logits_dtype"] != target.logits_dtype:
        yield error(
            "checkpoint-logits",
            "run",
            f"config.json: logits_dtype {config['logits_dtype']}, the target says {target.logits_dtype}",
            "logits are read with the wrong element size",
            "Make both the same.",
        )
