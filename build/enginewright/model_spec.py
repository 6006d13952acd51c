"""What a config.json says about a Qwen2 or Llama decoder, checked and under one set of names.

`read_model_spec` refuses what the engines of this project would compute wrongly: a wrong answer that looks
right is worse than a refusal. Field meanings: transformers' Qwen2Config and LlamaConfig.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from enginewright_errors import CheckpointError

__all__ = ["ModelSpec", "expected_tensors", "read_model_spec"]

ARCHITECTURES: Mapping[str, str] = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

# Far above any model of these families, far below what would make arithmetic on sizes meaningless.
MAX_WIDTH = 1 << 20
MAX_LAYERS = 1024
MAX_POSITIONS = 1 << 24
# What each number of a scaled rope may be; outside of it lie slips, and tables of zeros and infinities.
_SCALING_BOUNDS: Mapping[str, tuple[float, float]] = {
    "factor": (1, 1024),
    "original_max_position_embeddings": (1, MAX_POSITIONS),
    "low_freq_factor": (1e-3, 1e3),
    "high_freq_factor": (1e-3, 1e3),
    "beta_fast": (1e-3, 1e3),
    "beta_slow": (1e-3, 1e3),
    "attention_factor": (1e-3, 1e3),
    "mscale": (1e-3, 1e3),
    "mscale_all_dim": (1e-3, 1e3),
}
_NEEDED_BY_LLAMA3 = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The dimensions of a decoder. `rope` holds at least `rope_type` and `rope_theta`."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: Mapping[str, Any]

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k and v have a bias (they do in Qwen2 and nowhere else in these families)."""
        return self.architecture == "qwen2"

    @property
    def linear_input_widths(self) -> tuple[int, ...]:
        """The distinct input widths of the quantized linears: what a quantization group has to divide."""
        return tuple(sorted({self.hidden_size, self.num_heads * self.head_dim, self.intermediate_size}))


def read_model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Check the fields of a config.json and return them as a `ModelSpec`.

    Raises:
        CheckpointError: names the field, its value, and what would be accepted.
    """
    architecture = _architecture(config)
    _refuse_variants(config, architecture)
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise _field("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    if config.get("head_dim") is None and hidden % heads:
        raise _field("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    head_dim = _size(config, "head_dim", default=hidden // heads)
    if head_dim % 2:
        raise _field("head_dim", head_dim, "an even number: rotary embedding pairs the elements")
    eps = config.get("rms_norm_eps", 1e-6)
    if not _is_number(eps) or not 0 < eps < 1:
        raise _field("rms_norm_eps", eps, "a number between 0 and 1")
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise _field("tie_word_embeddings", tied, "true or false")
    return ModelSpec(
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=_size(config, "intermediate_size"),
        num_layers=_size(config, "num_hidden_layers", limit=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_size(config, "vocab_size"),
        max_position_embeddings=_size(config, "max_position_embeddings", limit=MAX_POSITIONS),
        rms_norm_eps=float(eps),
        tie_word_embeddings=tied,
        rope=_rope(config),
    )


def expected_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint of `spec` must hold (linears are [out, in])."""
    hidden, width = spec.hidden_size, spec.num_heads * spec.head_dim
    kv_width, inner = spec.num_kv_heads * spec.head_dim, spec.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, hidden)}
    for layer in range(spec.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        for name, rows in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
            shapes[f"{prefix}self_attn.{name}.weight"] = (rows, hidden)
            if spec.qkv_bias:
                shapes[f"{prefix}self_attn.{name}.bias"] = (rows,)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, width)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not spec.tie_word_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, hidden)
    return shapes


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    architecture = ARCHITECTURES.get(str(named[0])) if isinstance(named, list) and len(named) == 1 else None
    if architecture is None:
        raise CheckpointError(
            f"config.json: architectures is {_short(named)}, which is not supported",
            code="architecture-unsupported",
            hint=f"supported architectures: {', '.join(sorted(ARCHITECTURES))}",
        )
    model_type = config.get("model_type", architecture)
    if model_type != architecture:
        raise _field("model_type", model_type, f"{architecture!r}, to match architectures = {_short(named)}")
    return architecture


def _refuse_variants(config: Mapping[str, Any], architecture: str) -> None:
    """Refuse the variants of the two families that share their name and not their arithmetic."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise _field("hidden_act", activation, "'silu'")
    for name in ("attention_bias", "mlp_bias"):
        if architecture == "llama" and config.get(name):
            raise _field(name, config[name], "false: these biases are not in any released Llama")
    if _slides(config):
        raise CheckpointError(
            f"config.json: sliding_window = {_short(config.get('sliding_window'))} is in use,"
            " and sliding-window attention is not supported",
            code="sliding-window",
            hint="set use_sliding_window to false if the model is to attend to its whole context",
        )


def _slides(config: Mapping[str, Any]) -> bool:
    """Whether any layer attends to a window: Qwen2Config's rule, its defaults included."""
    layer_types = config.get("layer_types")
    if layer_types is not None:
        return not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types)
    if not config.get("use_sliding_window") or config.get("sliding_window", 4096) is None:
        return False
    return bool(_size(config, "max_window_layers", default=28) < _size(config, "num_hidden_layers"))


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """One description of the rotary embedding, from transformers 5's field or the two that 4.x reads."""
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise _field(name, value, "an object")
        for key, item in value.items():
            field = "rope_type" if key == "type" else key
            if item is not None and rope.setdefault(field, item) != item:
                raise _field(f"{name}.{key}", item, f"{_short(rope[field])}, as in another place")
    rope.setdefault("rope_type", "default")
    theta = config.get("rope_theta")
    if theta is None:
        theta = rope.get("rope_theta", 10_000.0)
    if not _is_number(theta) or not 1 < theta < 1e12:
        raise _field("rope_theta", theta, "a number above 1")
    if rope.setdefault("rope_theta", theta) != theta:
        raise _field(
            "rope_theta", theta, f"rope_parameters.rope_theta = {_short(rope['rope_theta'])}: one is wrong"
        )
    if rope["rope_type"] not in ROPE_TYPES:
        raise _field("rope_parameters.rope_type", rope["rope_type"], f"one of {', '.join(ROPE_TYPES)}")
    if rope["rope_type"] != "default":
        _check_scaling(rope)
    if config.get("partial_rotary_factor", 1.0) != 1.0 or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _field("partial_rotary_factor", config.get("partial_rotary_factor"), "1.0")
    return {**rope, "rope_theta": float(theta)}


def _check_scaling(rope: Mapping[str, Any]) -> None:
    needed = ("factor", *_NEEDED_BY_LLAMA3) if rope["rope_type"] == "llama3" else ("factor",)
    for name, (lowest, highest) in _SCALING_BOUNDS.items():
        value = rope.get(name)
        if value is None and name not in needed:
            continue
        if not _is_number(value) or not lowest <= value <= highest:
            raise _field(f"rope_parameters.{name}", value, f"a number from {lowest:g} to {highest:g}")
    if rope["rope_type"] == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        raise _field("rope_parameters.low_freq_factor", rope["low_freq_factor"], "less than high_freq_factor")
    positions = rope.get("original_max_position_embeddings")
    if positions is not None and positions != int(positions):
        raise _field("rope_parameters.original_max_position_embeddings", positions, "a whole number")


def _size(config: Mapping[str, Any], name: str, *, default: int | None = None, limit: int = MAX_WIDTH) -> int:
    value = config.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise _field(name, value, f"a whole number from 1 to {limit}")
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    )  # false for NaN as well


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _field(name: str, value: Any, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"config.json: {name} is {_short(value)}, expected {wanted}",
        code="config-invalid",
        hint="use the config.json that was published with the weights",
    )
