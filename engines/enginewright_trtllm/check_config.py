"""config.json of a TensorRT-LLM checkpoint, read back: every key present, every value one that was
observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec, RopeSpec
from enginewright_model.model_spec import ARCHITECTURES

from enginewright_trtllm.config import CONFIG_KEYS, QUANTIZATION_KEYS, QWEN_KEYS, quantization_block
from enginewright_trtllm.parallel import Parallel, check_parallel
from enginewright_trtllm.quantization import Quantization
from enginewright_trtllm.rope import Rope, trtllm_scaling

__all__ = ["Problem", "check_config", "model_of", "parallel_of", "quantization_of"]

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that upstream would refuse, or take without a word for something else."""

    code: str
    message: str
    hint: str


def check_config(config: Config) -> list[Problem]:
    """Problems of the config alone, each naming its key. Values are looked at once all keys are there, and
    what they mean together once each is right."""
    for check in (_missing_keys, _wrong_values, _contradictions):
        problems = list(check(config))
        if problems:
            return problems
    return []


def model_of(config: Config) -> ModelSpec:
    """The model that a checked config describes, as far as its tensors go: they do not depend on scaling,
    and lm_head is always one of them."""
    return ModelSpec(
        architecture=ARCHITECTURES[config["architecture"]],
        dtype=config["dtype"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_size"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["norm_epsilon"],
        tie_word_embeddings=False,
        rope=RopeSpec("default", config["rotary_base"]),
    )


def quantization_of(config: Config) -> Quantization:
    """The `Quantization` that a checked config describes."""
    block = config["quantization"]
    match block["quant_algo"]:
        case "FP8":
            return Quantization("fp8", kv_fp8=block["kv_cache_quant_algo"] == "FP8")
        case "W4A16_AWQ":
            return Quantization("int4_awq", group_size=block["group_size"])
        case _:
            return Quantization("none")


def parallel_of(config: Config) -> Parallel:
    """The `Parallel` that a checked config describes."""
    return Parallel(config["mapping"]["tp_size"], config["mapping"]["pp_size"])


def _missing_keys(config: Config) -> Iterator[Problem]:
    for key, consequence in _keys(config).items():
        if key not in config:
            yield Problem(
                "config-key-missing", f"config.json: {key} is missing", f"TensorRT-LLM {consequence}."
            )


def _wrong_values(config: Config) -> Iterator[Problem]:
    for key in _keys(config):
        accepts, wanted = _EXPECTED[key]
        if not accepts(config[key]):
            yield Problem("config-value", f"config.json: {key} = {config[key]!r}", f"It must be {wanted}.")


def _contradictions(config: Config) -> Iterator[Problem]:
    structure = [*_check_mapping(config["mapping"]), *_check_quantization(config["quantization"])]
    yield from structure
    model = model_of(config)
    if config["attn_bias"] is not model.qkv_bias:
        yield Problem(
            "config-value",
            f"config.json: attn_bias = {config['attn_bias']!r} for {model.architecture_name}",
            f"It must be {model.qkv_bias!r}: upstream drops biases or misses them.",
        )
    try:
        if not structure:
            check_parallel(model, quantization_of(config), parallel_of(config))
        # What the model itself reaches is not in this config: its promise is taken for it.
        rope = Rope(config["rotary_base"], config["rotary_scaling"], config["max_position_embeddings"])
        trtllm_scaling(rope, None, config["max_position_embeddings"])
    except RecipeError as error:
        yield Problem(error.code, f"config.json: {error.message}", error.hint)


def _keys(config: Config) -> dict[str, str]:
    qwen = config.get("architecture") == "Qwen2ForCausalLM"
    return {**CONFIG_KEYS, **(QWEN_KEYS if qwen else {})}


def _check_mapping(mapping: Config) -> Iterator[Problem]:
    sizes = ("world_size", "tp_size", "pp_size")
    if set(mapping) != set(sizes) or not all(_is_count(mapping[key]) for key in sizes):
        yield Problem(
            "config-value",
            f"config.json: mapping = {dict(mapping)}",
            f"It must have {', '.join(sizes)} and nothing else.",
        )
    elif mapping["world_size"] != mapping["tp_size"] * mapping["pp_size"]:
        yield Problem(
            "config-value",
            f"config.json: mapping.world_size = {mapping['world_size']}",
            "It must be tp_size * pp_size; upstream refuses others.",
        )


def _check_quantization(block: Config) -> Iterator[Problem]:
    for key in sorted(block.keys() - set(QUANTIZATION_KEYS)):
        yield Problem(
            "config-value",
            f"config.json: quantization.{key} is unknown",
            "Remove it: upstream's QuantConfig raises a TypeError.",
        )
    algorithm, group = block.get("quant_algo"), block.get("group_size")
    if algorithm not in (None, "FP8", "W4A16_AWQ") or (algorithm == "W4A16_AWQ" and group not in (64, 128)):
        yield Problem(
            "config-value",
            f"config.json: quantization.quant_algo = {algorithm!r}, group_size = {group!r}",
            "It must be FP8, W4A16_AWQ with groups of 64 or 128, or null.",
        )
        return
    expected = quantization_block(quantization_of({"quantization": {"kv_cache_quant_algo": None, **block}}))
    for key, value in expected.items():
        if key == "exclude_modules" and "lm_head" in (block.get(key) or ()):
            continue
        if key not in block or block[key] != value:
            yield Problem(
                "config-value",
                f"config.json: quantization.{key} = {block.get(key)!r}",
                f"It must be {value!r}. {_QUANTIZATION_REASONS.get(key, '')}".rstrip(),
            )


_QUANTIZATION_REASONS = {
    "pre_quant_scale": "Without it upstream drops the pre-quantization scales silently.",
    "exclude_modules": "Without lm_head in it upstream expects FP8 scales for lm_head.",
    "kv_cache_quant_algo": "Only FP8 weights go with an FP8 KV cache: others lose paged context attention.",
    "has_zero_point": "There are no zero points in this format.",
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _one_of(*values: object) -> tuple[Callable[[object], bool], str]:
    # By type as well: 0 is not False, and a string is not a name that upstream would convert.
    return (
        lambda value: any(type(value) is type(v) and value == v for v in values),
        " or ".join(map(repr, values)),
    )


_COUNT = (_is_count, "a positive integer")
_EXPECTED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "architecture": _one_of(*ARCHITECTURES),
    "dtype": _one_of("bfloat16", "float16"),
    "logits_dtype": _one_of("float16", "float32"),
    "hidden_act": _one_of("silu"),
    "position_embedding_type": _one_of("rope_gpt_neox"),
    "attn_bias": _one_of(True, False),
    "mlp_bias": _one_of(False),
    "use_parallel_embedding": _one_of(True),
    "embedding_sharding_dim": _one_of(0),
    "qwen_type": _one_of("qwen2"),
    "norm_epsilon": (_is_positive, "a positive number"),
    "rotary_base": (_is_positive, "a positive number"),
    "rotary_scaling": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "mapping": (lambda value: isinstance(value, dict), "an object"),
    "quantization": (lambda value: isinstance(value, dict), "an object"),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "hidden_size",
            "intermediate_size",
            "head_size",
            "vocab_size",
            "max_position_embeddings",
            "seq_length",
        ),
        _COUNT,
    ),
}
